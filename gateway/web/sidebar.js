// The list of chats: search, open, rename, delete.

import { matches } from "./dialogue.js";
import { iconButton, make } from "./make.js";

const DAY_MS = 86_400_000;

/** acts: {rename(dialogue, title), remove(dialogue)}. */
export class Sidebar {
  #list;
  #search;
  #acts;
  #dialogues = [];
  #current = "";

  constructor(element, acts) {
    this.#list = element.querySelector("#chats");
    this.#search = element.querySelector("#search");
    this.#acts = acts;
    this.#search.oninput = () => this.#draw();
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
    const leave = (title) => {
      field.onblur = null;
      field.remove();
      this.#acts.rename(dialogue, title.trim() || dialogue.title);
      this.#refocus(dialogue.id, `Rename ${dialogue.title}`);
    };
    field.onblur = () => leave(field.value);
    field.onkeydown = (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault(); // or it would press the button that gets the focus
        leave(field.value);
      }
      if (event.key === "Escape") leave(dialogue.title);
      event.stopPropagation();
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
