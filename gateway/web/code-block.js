// A block of code that grows line by line: language, copy button, and colours once it is complete.

import { copyButton } from "./clipboard.js";
import { highlight } from "./highlighter.js";
import { make } from "./make.js";
import { byLines } from "./runs.js";

/** Lines that are laid out together: a line that is added costs no more than these. */
const GROUP_LINES = 40;
/** Longer code stays plain. */
const HIGHLIGHTED_CHARS = 100_000;

export class CodeBlock {
  #language;
  #lines = [];
  #groups = [];
  #code = make("code");
  #rest = make("span");

  constructor(language) {
    this.#language = language;
    const name = language ? `Code, ${language}` : "Code";
    const caption = make("figcaption", {}, make("span", { textContent: language || "text" }));
    caption.append(copyButton("Copy code", () => this.text));
    const box = make("pre", { tabIndex: 0, role: "region", ariaLabel: name, dir: "ltr" }, this.#code);
    this.#code.append(this.#rest);
    this.element = make("figure", { className: "code" }, caption, box);
  }

  get text() {
    return this.#lines.join("\n") + (this.#rest.textContent && `${this.#lines.length ? "\n" : ""}${this.#rest.textContent}`);
  }

  /** Add a complete line. */
  add(line) {
    if (this.#lines.length % GROUP_LINES === 0) {
      this.#groups.push(make("span", { className: "lines" }, line));
      this.#rest.before(this.#groups.at(-1));
    } else {
      this.#groups.at(-1).append(`\n${line}`);
    }
    this.#lines.push(line);
  }

  /** Show the line that is being written. */
  hint(line) {
    this.#rest.textContent = line;
  }

  /** No line follows. */
  async finish() {
    if (this.#rest.textContent) this.add(this.#rest.textContent);
    this.#rest.remove();
    this.#rest.textContent = "";
    const code = this.#lines.join("\n");
    if (!code || code.length > HIGHLIGHTED_CHARS) return;
    const groups = byLines(await highlight(code, this.#language), GROUP_LINES);
    for (const [index, runs] of groups.entries()) {
      if (index) await new Promise(requestAnimationFrame);
      this.#groups[index]?.replaceChildren(...runs.map(colour));
    }
    for (const group of this.#groups.slice(0, -1)) trim(group);
  }
}

function colour([classes, text]) {
  return classes ? make("span", { className: classes, textContent: text }) : text;
}

/** Groups are blocks, so the line break at the end of one is there already. */
function trim(group) {
  const last = group.lastChild;
  if (last) last.textContent = last.textContent.replace(/\n$/, "");
}
