// A short message at the bottom of the page, perhaps with something to do about it.

import { make } from "./make.js";

const SHOWN_MS = 8000;

let hiding = 0;

/** Show it; `act` is what the button named `action` does. */
export function toast(text, action = "", act = null) {
  const box = place();
  box.replaceChildren(make("span", { textContent: text }));
  if (act) box.append(make("button", { type: "button", textContent: action, onclick: () => (hideToast(), act()) }));
  hideLater();
}

function place() {
  return document.querySelector("#toast");
}

/** Hide what is shown; the question gets the focus where that goes with it. */
export function hideToast() {
  clearTimeout(hiding);
  const box = place();
  const hadFocus = box.contains(document.activeElement);
  box.replaceChildren();
  if (hadFocus) document.querySelector("#question").focus();
}

/** Nothing disappears while somebody is at it. */
function hideLater() {
  clearTimeout(hiding);
  hiding = setTimeout(() => (place().matches(":hover, :focus-within") ? hideLater() : hideToast()), SHOWN_MS);
}
