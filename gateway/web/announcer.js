// What screen readers say: whole sentences of the answer as they are complete, and what happens to the page.

const PERIOD_MS = 1500;
/** What passes sooner is not worth a word. */
const SETTLED_MS = 1000;
const SENTENCES = /^[\s\S]*[.!?:;。！？\n](?=\s|$)/;

export class Announcer {
  #region;
  #said = 0;
  #waiting = [];
  #timer = 0;
  #settling = 0;

  constructor(region) {
    this.#region = region;
  }

  /** How things are now; "": nothing to tell. It is said once it stays so. */
  settle(text) {
    clearTimeout(this.#settling);
    if (text) this.#settling = setTimeout(() => this.#say(text), SETTLED_MS);
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

  #say(text) {
    this.#waiting.push(text);
    this.#timer ||= setTimeout(() => this.#speak());
  }

  #speak() {
    this.#timer = 0;
    this.#region.textContent = this.#waiting.splice(0).join(" ");
  }
}
