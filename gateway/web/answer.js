// An answer while it grows: blocks that are complete are made once, only the open one, at the end, is made anew.

import { closes, completePieces, fenceOf } from "./blocks.js";
import { CodeBlock } from "./code-block.js";
import { graft, prune } from "./graft.js";
import { rendered } from "./markdown.js";

export class Answer {
  #element;
  #last = null; // of the nodes that are complete
  #end = 0;
  #code = null;
  #marker = "";
  #carry = "";

  constructor(element) {
    this.#element = element;
    element.replaceChildren();
  }

  /** The text so far; it never changes but at its end. */
  show(text) {
    while (this.#code ? this.#readCode(text) : this.#readBlocks(text));
    if (!this.#code) prune(this.#element, this.#put(text.slice(this.#end)));
  }

  /** The whole text. */
  finish(text) {
    this.show(text);
    this.#code?.finish();
    this.#code = null;
    this.#settle(this.#element.lastChild);
  }

  /** Show a piece of markdown after what is complete; the last node of it. */
  #put(source) {
    return graft(this.#element, dressed(rendered(this.#carry + source)), this.#last);
  }

  /** All nodes up to that one are complete. */
  #settle(last) {
    while (this.#last !== last) {
      this.#last = this.#last ? this.#last.nextSibling : this.#element.firstChild;
      for (const block of codeIn(this.#last)) block.dispatchEvent(new Event("complete"));
    }
  }

  /** Take in complete blocks; whether there may be more. */
  #readBlocks(text) {
    const before = this.#carry;
    const { ends, carry } = completePieces(before + text.slice(this.#end));
    const start = this.#end - before.length;
    for (const end of ends.map((each) => each + start)) {
      if (this.#readFence(text)) return true;
      this.#settle(this.#put(text.slice(this.#end, end)));
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
    prune(this.#element, this.#last);
    this.#element.append((this.#last = this.#code.element));
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

/** The nodes, in which code inside of other blocks is made as that outside of them; it waits for the event "complete". */
function dressed(fragment) {
  for (const code of fragment.querySelectorAll("pre:not(.formula) > code")) {
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    const block = new CodeBlock(language);
    for (const line of code.textContent.replace(/\n$/, "").split("\n")) block.add(line);
    block.element.addEventListener("complete", () => block.finish(), { once: true });
    code.parentElement.replaceWith(block.element);
  }
  return Array.from(fragment.childNodes);
}

function codeIn(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return [];
  return node.matches("figure.code") ? [node] : node.querySelectorAll("figure.code");
}
