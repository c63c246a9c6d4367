// The line below the messages: what is waited for, how fast it goes, what went wrong and what can be done about it.

import { make } from "./make.js";

const SLOW = 1; // tokens per second
const AWAY = ["lost", "offline"];
const WAITING = "Your question waits for a while, in case somebody comes.";
const PETALS = "https://github.com/bigscience-workshop/petals#connect-your-gpu-and-increase-petals-capacity";

/** acts: {goOn(), succeed()}. */
export class Notice {
  #box;
  #announcer;
  #acts;
  #shown = "";
  #mood = "";

  constructor(box, announcer, acts) {
    this.#box = box;
    this.#announcer = announcer;
    this.#acts = acts;
  }

  /** Show how this chat is. */
  show(chat) {
    const { phase, trouble } = chat.state;
    if (phase === "idle") this.#idle(chat, trouble);
    else this.#busy(chat);
  }

  #busy(chat) {
    const { phase, ahead, attempt } = chat.state;
    const { writer, speed } = chat;
    if (phase === "lost" && attempt) return this.#put("lost", `The connection is lost. Trying again (${attempt}) …`);
    if (phase === "lost") return this.#put("offline", "You are offline. The answer goes on when you are back.");
    const extras = 0 < speed && speed < SLOW ? [slowLink()] : [];
    if (phase === "writing") return this.#put("", speedOf(speed) || "Writing …", extras);
    if (chat.isUnserved) return this.#put("unserved", `Nobody serves ${writer.frontend.name} at the moment. ${WAITING}`);
    return ahead ? this.#put("queued", `In the queue: place ${ahead}`) : this.#put("", "Thinking …");
  }

  #idle(chat, trouble) {
    const last = chat.dialogue.messages.at(-1);
    if (trouble) return this.#trouble(trouble);
    if (last?.role === "user" || last?.how === "failed") {
      return this.#put("incomplete", "This answer is not complete.", [this.#button("Go on", "goOn")]);
    }
    if (last?.how === "cancelled") return this.#put("stopped", "Stopped.", [this.#button("Continue", "goOn")]);
    return this.#put("", speedOf(chat.speed));
  }

  #trouble({ kind, title, text }) {
    const retry = this.#button("Try again", "goOn");
    const renew = this.#button("New chat with a summary", "succeed");
    const buttons = kind === "too-long" ? [renew] : [retry];
    const words = make("p", {}, make("strong", { textContent: title }), ` ${text}`);
    const box = make("div", { className: "trouble", role: "alert" }, words, make("div", { className: "row" }, ...buttons));
    this.#tell("trouble", ""); // alerts are said by themselves
    this.#replace(kind + text, [box]);
  }

  /** mood: what is said of this, once; "": how fast it goes, for example, is not. */
  #put(mood, text, extras = []) {
    this.#tell(mood, mood && text);
    const key = text && text + extras.map((extra) => extra.textContent).join();
    this.#replace(key, text ? [make("span", { textContent: text }), ...extras] : []);
  }

  #tell(mood, text) {
    if (mood === this.#mood) return;
    const isBack = AWAY.includes(this.#mood) && !AWAY.includes(mood) && mood !== "trouble";
    this.#mood = mood;
    this.#announcer.settle(isBack ? `The connection is back. ${text}`.trim() : text);
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

function speedOf(speed) {
  return speed ? `${speed.toFixed(speed < 10 ? 1 : 0)} tokens per second` : "";
}

function slowLink() {
  return make("a", { href: PETALS, textContent: "Too slow? Connect your GPU", target: "_blank", rel: "noopener noreferrer" });
}
