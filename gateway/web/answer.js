// An answer while it grows: blocks that are complete are made once, only the open one is made anew.

import { closes, completePieces, fenceOf } from "./blocks.js";
import { CodeBlock } from "./code-block.js";
import { make } from "./make.js";
import { rendered } from "./markdown.js";

export class Answer {
  #element;
  #open = make("div", { className: "open" });
  #end = 0;
  #code = null;
  #marker = "";
  #carry = "";

  constructor(element) {
    this.#element = element;
    element.replaceChildren(this.#open);
  }

  /** The text so far; it never changes but at its end. */
  show(text) {
    while (this.#code ? this.#readCode(text) : this.#readBlocks(text));
    if (!this.#code) this.#open.replaceChildren(dressed(rendered(this.#carry + text.slice(this.#end))));
  }

  /** The whole text. */
  finish(text) {
    this.show(text);
    this.#code?.finish();
    this.#code = null;
    for (const block of this.#open.querySelectorAll("figure.code")) block.dispatchEvent(new Event("complete"));
    this.#open.replaceWith(...this.#open.childNodes);
  }

  /** Take in complete blocks; whether there may be more. */
  #readBlocks(text) {
    const before = this.#carry;
    const { ends, carry } = completePieces(before + text.slice(this.#end));
    const start = this.#end - before.length;
    for (const end of ends.map((each) => each + start)) {
      if (this.#readFence(text)) return true;
      this.#open.before(dressed(rendered(this.#carry + text.slice(this.#end, end)), true));
      this.#carry = "";
      this.#end = end;
    }
    if (ends.length) this.#carry = carry;
    return this.#readFence(text) || ends.length > 0;
  }

  #readFence(text) {
    const fence = fenceOf(text.slice(this.#end, this.#end + 200));
    if (!fence) return false;
    this.#code = new CodeBlock(fence.language);
    this.#marker = fence.marker;
    this.#end += fence.length;
    this.#open.before(this.#code.element);
    this.#open.replaceChildren();
    return true;
  }

  /** Take in lines of code; whether something follows it. */
  #readCode(text) {
    for (let end; (end = text.indexOf("\n", this.#end)) >= 0; ) {
      const line = text.slice(this.#end, end);
      this.#end = end + 1;
      if (closes(line, this.#marker)) return this.#closeCode();
      this.#code.add(line);
    }
    const rest = text.slice(this.#end);
    if (closes(rest, this.#marker)) {
      this.#code.hint("");
      return false;
    }
    this.#code.hint(/^ {0,3}[`~]{1,3}$/.test(rest) ? "" : rest);
    return false;
  }

  #closeCode() {
    this.#code.hint("");
    this.#code.finish();
    this.#code = null;
    return true;
  }
}

/** Code inside of other blocks, made as that outside of them. */
function dressed(fragment, isComplete = false) {
  for (const code of fragment.querySelectorAll("pre:not(.formula) > code")) {
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    const block = new CodeBlock(language);
    for (const line of code.textContent.replace(/\n$/, "").split("\n")) block.add(line);
    if (isComplete) block.finish();
    else block.element.addEventListener("complete", () => block.finish());
    code.parentElement.replaceWith(block.element);
  }
  return fragment;
}
