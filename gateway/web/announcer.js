// What screen readers say: whole sentences of the answer as they are complete, and what happens to the page.

const PERIOD_MS = 1500;
const SENTENCES = /^[\s\S]*[.!?:;。！？\n](?=\s|$)/;

export class Announcer {
  #region;
  #said = 0;
  #waiting = [];
  #timer = 0;

  constructor(region) {
    this.#region = region;
  }

  /** Say this soon. */
  say(text) {
    this.#waiting.push(text);
    this.#timer ||= setTimeout(() => this.#speak(), 50);
  }

  /** A new answer begins; `said` characters of it are known. */
  begin(said = 0) {
    this.#said = said;
  }

  /** The answer so far. isComplete: nothing follows. */
  follow(text, isComplete = false) {
    const fresh = text.slice(this.#said);
    const sentences = isComplete ? fresh : (SENTENCES.exec(fresh)?.[0] ?? "");
    if (!sentences.trim()) return;
    this.#said += sentences.length;
    this.#waiting.push(sentences.replace(/[*_`#>|]+/g, " "));
    this.#timer ||= setTimeout(() => this.#speak(), PERIOD_MS);
  }

  #speak() {
    this.#timer = 0;
    this.#region.textContent = this.#waiting.splice(0).join(" ");
  }
}
