// Where questions are typed. Enter sends, Shift and Enter begin a new line, Escape stops the answer.

import { isComposing } from "./input-method.js";
import { iconOf } from "./make.js";

export class Composer {
  #area;
  #button;
  #acts;
  #isBusy = false;

  /** acts: {send(text), stop()}. */
  constructor(form, acts) {
    this.#area = form.querySelector("textarea");
    this.#button = form.querySelector("button[type=submit]");
    this.#acts = acts;
    form.onsubmit = (event) => {
      event.preventDefault();
      if (this.#isBusy) acts.stop();
      else this.#send();
    };
    this.#area.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
      event.preventDefault();
      if (!this.#isBusy) this.#send();
    };
    this.#area.oninput = () => this.#fit();
  }

  /** Whether an answer is being written: then the button stops it. */
  set isBusy(isBusy) {
    this.#isBusy = isBusy;
    const name = isBusy ? "Stop" : "Send";
    if (this.#button.ariaLabel === name) return;
    this.#button.ariaLabel = this.#button.title = name;
    this.#button.replaceChildren(iconOf(isBusy ? "stop" : "send"));
  }

  get text() {
    return this.#area.value;
  }

  set text(text) {
    this.#area.value = text;
    this.#fit();
  }

  focus() {
    this.#area.focus();
  }

  #send() {
    const text = this.#area.value.trim();
    if (!text) return;
    this.text = "";
    this.#acts.send(text);
  }

  /** As high as the text, within what the style sheet allows. */
  #fit() {
    this.#area.style.height = "auto";
    this.#area.style.height = `${this.#area.scrollHeight}px`;
  }
}
