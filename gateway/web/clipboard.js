// Copying, also on pages without HTTPS, where browsers offer no navigator.clipboard.

import { iconButton, iconOf, make } from "./make.js";

const SHOWN_MS = 1500;

/** Copy a text; whether that was done. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = make("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isDone;
}

/** A button that copies what text() gives. */
export function copyButton(name, text) {
  const button = iconButton("copy", name, async () => {
    const isDone = await copy(text());
    button.replaceChildren(iconOf(isDone ? "check" : "close"));
    button.ariaLabel = isDone ? "Copied" : "Copying failed";
    setTimeout(() => {
      button.replaceChildren(iconOf("copy"));
      button.ariaLabel = name;
    }, SHOWN_MS);
  });
  return button;
}
