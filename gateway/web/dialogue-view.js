// The messages of the open chat, the answer as it grows, and what is to be said below it.

import { make } from "./make.js";
import { MessageView } from "./message-view.js";

/** Pixels from the end within which the view follows a growing answer. */
const NEAR_PX = 90;
/** After a frame's work the view rests for so many times as long, so that typing and scrolling never wait for it. */
const REST = 2;

export class DialogueView {
  #scroller;
  #list;
  #latest;
  #announcer;
  #acts;
  #chat = null;
  #views = [];
  #frame = 0;
  #restUntil = 0;
  #follows = true;
  #top = 0;

  /** acts: {edit(index, text), regenerate(index)}. */
  constructor(scroller, list, latest, announcer, acts) {
    this.#scroller = scroller;
    this.#list = list;
    this.#latest = latest;
    this.#announcer = announcer;
    this.#acts = acts;
    latest.onclick = () => this.#toEnd();
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
  }

  /** Show this chat. */
  open(chat) {
    this.#chat = chat;
    this.#views = [];
    this.#list.replaceChildren();
    this.#follows = true;
    this.refresh();
    this.#toEnd();
  }

  /** Its messages are others than before. */
  refresh() {
    const { messages } = this.#chat.dialogue;
    const kept = messages.findIndex((message, index) => this.#views[index]?.message !== message);
    const from = kept < 0 ? messages.length : kept;
    for (const { view } of this.#views.splice(from)) view.element.remove();
    for (let index = from; index < messages.length; index++) this.#add(messages[index], index);
    const last = this.#views.at(-1);
    if (!last) return;
    if (this.#chat.isBusy) {
      if (from < messages.length || last.isComplete) this.#announcer.begin(this.#chat.shown.length);
      last.isComplete = false;
    }
    this.#complete();
    this.grow();
  }

  /** The last answer has grown. */
  grow() {
    this.#frame ||= requestAnimationFrame((now) => this.#draw(now));
  }

  #add(message, index) {
    const acts = {
      edit: (text) => this.#acts.edit(index, text),
      regenerate: () => this.#acts.regenerate(index),
    };
    const name = message.role === "user" ? "You" : this.#acts.nameOf(message.model);
    const view = new MessageView(message, name, acts);
    this.#views.push({ message, view, isComplete: false, hasGrown: false });
    this.#list.append(view.element);
  }

  /** Finish what is complete but not shown so. */
  #complete() {
    const open = this.#chat.isBusy ? this.#views.length - 1 : -1;
    for (const [index, each] of this.#views.entries()) {
      if (index === open || each.isComplete) continue;
      each.view.complete();
      each.isComplete = true;
      if (each.hasGrown) this.#announcer.follow(each.message.text, true);
      each.hasGrown = false;
    }
  }

  #draw(now) {
    this.#frame = 0;
    if (!this.#chat.isBusy) {
      if (this.#follows) this.#toEnd();
      return;
    }
    if (now < this.#restUntil) {
      this.grow();
      return;
    }
    const { shown } = this.#chat;
    const last = this.#views.at(-1);
    last.view.grow(shown);
    last.hasGrown = true;
    this.#announcer.follow(shown);
    if (this.#follows) this.#toEnd();
    this.#restUntil = now + REST * (performance.now() - now);
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#follow(true);
  }

  /** Up means away from the end, however near that is. */
  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const distance = scrollHeight - scrollTop - clientHeight;
    this.#follow(distance < (scrollTop < this.#top ? 2 : NEAR_PX));
    this.#top = scrollTop;
  }

  #follow(follows) {
    this.#follows = follows;
    if (follows && document.activeElement === this.#latest) this.#scroller.focus(); // what is hidden loses the focus
    this.#latest.hidden = follows;
  }
}
