// The list of chats: search, open, rename, delete. Narrow screens show it when they are asked to.

import { matches } from "./dialogue.js";
import { isComposing } from "./input-method.js";
import { iconButton, make } from "./make.js";

const DAY_MS = 86_400_000;

/** opener: the button that shows it. acts: {rename(dialogue, title), remove(dialogue), markOf(dialogue)}. */
export class Sidebar {
  #element;
  #opener;
  #list;
  #search;
  #acts;
  #dialogues = [];
  #current = "";

  constructor(element, opener, acts) {
    this.#element = element;
    this.#opener = opener;
    this.#list = element.querySelector("#chats");
    this.#search = element.querySelector("#search");
    this.#acts = acts;
    this.#search.oninput = () => this.#draw();
    opener.onclick = () => this.#open();
    element.querySelector("#close-sidebar").onclick = () => this.close();
  }

  get isOpen() {
    return this.#element.classList.contains("open");
  }

  #open() {
    this.#element.classList.add("open");
    this.#opener.ariaExpanded = "true";
    this.#element.querySelector("#new").focus();
  }

  /** Hide it. On wide screens, where it is never open, nothing happens. */
  close() {
    if (!this.isOpen) return;
    const hadFocus = this.#element.contains(document.activeElement);
    this.#element.classList.remove("open");
    this.#opener.ariaExpanded = "false";
    if (hadFocus) this.#opener.focus();
  }

  /** Show these dialogues; `current` is the id of the open one. */
  show(dialogues, current) {
    this.#dialogues = dialogues.toSorted((one, other) => other.changed - one.changed);
    this.#current = current;
    this.#draw();
  }

  #draw() {
    if (this.#list.querySelector("input")) return; // a title is being typed
    const words = this.#search.value.split(/\s+/).filter(Boolean);
    const found = this.#dialogues.filter((dialogue) => matches(dialogue, words));
    const focused = document.activeElement?.closest?.("#chats li")?.dataset.id;
    const place = document.activeElement?.title;
    const groups = Map.groupBy(found, ({ changed }) => age(changed));
    const nodes = Array.from(groups, ([name, dialogues]) => [
      make("li", { className: "group" }, make("h2", { textContent: name })),
      ...dialogues.map((dialogue) => this.#row(dialogue)),
    ]);
    if (!found.length) nodes.push(make("li", { className: "none", textContent: words.length ? "Nothing found" : "No chats yet" }));
    this.#list.replaceChildren(...nodes.flat());
    if (focused) this.#refocus(focused, place);
  }

  #refocus(id, place) {
    const row = this.#list.querySelector(`li[data-id="${id}"]`);
    const same = Array.from(row?.querySelectorAll("button") ?? []).find((button) => button.title === place);
    (same ?? row?.querySelector("a") ?? this.#search).focus();
  }

  #row(dialogue) {
    const link = make("a", { href: `#${dialogue.id}`, textContent: dialogue.title, dir: "auto" });
    const mark = this.#acts.markOf(dialogue);
    if (mark) link.prepend(make("span", { className: "mark", role: "img", title: mark, ariaLabel: mark }));
    const row = make("li", {}, link);
    row.dataset.id = dialogue.id;
    if (dialogue.id === this.#current) link.ariaCurrent = "page";
    row.append(
      iconButton("edit", `Rename ${dialogue.title}`, () => this.#rename(row, dialogue)),
      iconButton("trash", `Delete ${dialogue.title}`, () => this.#acts.remove(dialogue)),
    );
    return row;
  }

  #rename(row, dialogue) {
    const field = make("input", { value: dialogue.title, ariaLabel: "Title", dir: "auto", maxLength: 200 });
    const leave = (text) => {
      field.onblur = null;
      field.remove();
      const title = text.trim();
      if (title && title !== dialogue.title) this.#acts.rename(dialogue, title);
      else this.#draw();
    };
    const leaveByKey = (text) => {
      leave(text);
      this.#refocus(dialogue.id, `Rename ${dialogue.title}`);
    };
    field.onblur = () => leave(field.value); // whatever was clicked has the focus
    field.onkeydown = (event) => {
      event.stopPropagation();
      if (isComposing(event)) return;
      if (event.key === "Escape") leaveByKey(dialogue.title);
      if (event.key !== "Enter") return;
      event.preventDefault(); // or it would press the button that gets the focus
      leaveByKey(field.value);
    };
    row.replaceChildren(field);
    field.select();
  }
}

function age(changed) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - changed) / DAY_MS);
  if (days < 1) return "Today";
  if (days < 2) return "Yesterday";
  return days < 8 ? "Last seven days" : "Older";
}
