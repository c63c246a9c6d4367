// The line below the messages: what is waited for, how fast it goes, what went wrong and what can be done about it.

import { make } from "./make.js";

const SLOW = 1; // tokens per second
const PETALS = "https://github.com/bigscience-workshop/petals#connect-your-gpu-and-increase-petals-capacity";

/** acts: {goOn(), succeed()}. */
export class Notice {
  #box;
  #acts;
  #shown = "";

  constructor(box, acts) {
    this.#box = box;
    this.#acts = acts;
  }

  /** Show how this chat is. */
  show(chat) {
    const { phase, trouble } = chat.state;
    if (phase === "idle") this.#idle(chat, trouble);
    else this.#put(this.#busy(chat), 0 < chat.speed && chat.speed < SLOW ? [slowLink()] : []);
  }

  #busy(chat) {
    const { phase, ahead, attempt } = chat.state;
    const { name } = chat.model.frontend;
    if (phase === "lost" && !attempt) return "You are offline. The answer goes on when you are back.";
    if (phase === "lost") return `The connection is lost. Trying again (${attempt}) …`;
    if (phase === "writing") return speedOf(chat) || "Writing …";
    if (!chat.model.live_workers) {
      return `Nobody serves ${name} at the moment. Your question waits for a while, in case somebody comes.`;
    }
    return ahead ? `In the queue: place ${ahead}` : "Thinking …";
  }

  #idle(chat, trouble) {
    const last = chat.dialogue.messages.at(-1);
    if (trouble) return this.#trouble(trouble);
    if (last?.role === "user" || last?.how === "failed") {
      return this.#put("This answer is not complete.", [this.#button("Go on", "goOn")]);
    }
    if (last?.how === "cancelled") return this.#put("Stopped.", [this.#button("Continue", "goOn")]);
    return this.#put(speedOf(chat), []);
  }

  #trouble({ kind, title, text }) {
    const retry = this.#button("Try again", "goOn");
    const renew = this.#button("New chat with a summary", "succeed");
    const buttons = kind === "too-long" ? [renew] : [retry];
    const words = make("p", {}, make("strong", { textContent: title }), ` ${text}`);
    const box = make("div", { className: "trouble", role: "alert" }, words, make("div", { className: "row" }, ...buttons));
    this.#replace(kind + text, [box]);
  }

  #put(text, extras) {
    const key = text && text + extras.map((extra) => extra.textContent).join();
    this.#replace(key, text ? [make("span", { textContent: text }), ...extras] : []);
  }

  #replace(key, nodes) {
    if (key === this.#shown) return;
    this.#shown = key;
    const hadFocus = this.#box.contains(document.activeElement);
    this.#box.replaceChildren(...nodes);
    if (hadFocus) document.querySelector("#question").focus();
  }

  #button(text, act) {
    return make("button", { type: "button", textContent: text, onclick: () => this.#acts[act]() });
  }
}

function speedOf({ speed }) {
  return speed ? `${speed.toFixed(speed < 10 ? 1 : 0)} tokens per second` : "";
}

function slowLink() {
  return make("a", { href: PETALS, textContent: "Too slow? Connect your GPU", target: "_blank", rel: "noopener noreferrer" });
}
