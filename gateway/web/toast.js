// A short message at the bottom of the page, perhaps with something to do about it.

import { make } from "./make.js";

const SHOWN_MS = 8000;

let hiding = 0;

/** Show it; `act` is what the button named `action` does. */
export function toast(text, action = "", act = null) {
  const box = document.querySelector("#toast");
  const hide = () => box.replaceChildren();
  clearTimeout(hiding);
  hiding = setTimeout(hide, SHOWN_MS);
  box.replaceChildren(make("span", { textContent: text }));
  if (!act) return;
  const onclick = () => {
    hide();
    act();
  };
  box.append(make("button", { type: "button", textContent: action, onclick }));
}
