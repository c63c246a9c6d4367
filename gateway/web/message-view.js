// One message of a dialogue: its text, and what can be done with it.

import { Answer } from "./answer.js";
import { copyButton } from "./clipboard.js";
import { isComposing } from "./input-method.js";
import { iconButton, make } from "./make.js";

/** acts: {edit(text), regenerate()}; name: who wrote it. */
export class MessageView {
  #message;
  #acts;
  #answer = null;
  #tools = make("div", { className: "tools" });
  #text = make("div", { className: "text" });

  constructor(message, name, acts) {
    this.#message = message;
    this.#acts = acts;
    const heading = make("h2", { className: message.role === "user" ? "unseen" : "name", textContent: name });
    this.element = make("li", { className: `message ${message.role}` }, heading, this.#text, this.#tools);
    this.#text.dir = "auto";
  }

  /** Show all of it. */
  complete() {
    const { role, text } = this.#message;
    this.element.ariaBusy = "false";
    if (role === "user") {
      this.#text.textContent = text;
      this.#tools.replaceChildren(copyButton("Copy", () => text), iconButton("edit", "Edit", () => this.#edit()));
      return;
    }
    this.#answer ??= new Answer(this.#text);
    this.#answer.finish(text.trimStart());
    this.#answer = null;
    const again = iconButton("again", "Regenerate", () => this.#acts.regenerate());
    this.#tools.replaceChildren(copyButton("Copy", () => text.trim()), again);
  }

  /** Show as much of the answer as there is. */
  grow(text) {
    this.element.ariaBusy = "true";
    this.#answer ??= new Answer(this.#text);
    this.#answer.show(text.trimStart());
    this.#tools.replaceChildren();
  }

  #edit() {
    const area = make("textarea", { value: this.#message.text, ariaLabel: "Your question", dir: "auto", rows: 3 });
    const leave = () => {
      this.#text.replaceChildren();
      this.complete();
      this.#tools.querySelector("button:last-child").focus();
    };
    const send = () => area.value.trim() && this.#acts.edit(area.value.trim());
    area.onkeydown = (event) => {
      if (isComposing(event)) return;
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !event.shiftKey) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const buttons = make(
      "div",
      { className: "row" },
      make("button", { type: "button", textContent: "Cancel", onclick: leave }),
      make("button", { type: "button", textContent: "Send", className: "main", onclick: send }),
    );
    this.#text.replaceChildren(area, buttons);
    this.#tools.replaceChildren();
    area.focus();
  }
}
