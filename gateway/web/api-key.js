// The API key of who looks at the page, where the gateway asks for one. It is kept in this browser, and told to the
// gateway alone: in a header, and as a subprotocol where a browser can send no header.

import { make } from "./make.js";

const PLACE = "api-key";
const TIMEOUT_MS = 10_000;
const REFUSALS = [401, 403];

/** While people are asked, so that several refusals ask them once. */
let asking = null;

/** Whether this browser keeps a key. */
export function hasKey() {
  return kept() !== "";
}

/** Keep it no longer. */
export function forgetKey() {
  localStorage.removeItem(PLACE);
}

/** What a WebSocket is opened with. */
export function protocols() {
  return hasKey() ? ["corolla", `key.${kept()}`] : [];
}

/** The response to GET path. People are asked for a key until the gateway takes one. Rejects where there is no answer. */
export async function get(path) {
  for (;;) {
    const key = kept();
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const answer = await fetch(path, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!REFUSALS.includes(answer.status)) return answer;
    if (kept() === key) await askOnce(key);
  }
}

function kept() {
  try {
    return localStorage.getItem(PLACE) ?? "";
  } catch {
    return ""; // the browser keeps nothing
  }
}

function askOnce(refused) {
  asking ??= ask(refused).finally(() => {
    asking = null;
  });
  return asking;
}

/** Have people type a key. refused: the one that was not taken, if any. */
async function ask(refused) {
  const hint = refused
    ? "The key that this browser kept does not count here, or not any more."
    : "Who runs this service gave you one. It stays in this browser.";
  const field = make("input", { type: "password", name: "key", required: true, pattern: "\\s*[\\w.\\-]+\\s*", autocomplete: "off" });
  const dialog = make(
    "dialog",
    { id: "api-key", attributes: { "aria-labelledby": "api-key-title" }, oncancel: (event) => event.preventDefault() },
    make(
      "form",
      { method: "dialog" },
      make("h2", { id: "api-key-title", textContent: "An API key is needed" }),
      make("p", { className: "hint", textContent: hint }),
      make("label", {}, "API key ", field),
      make("div", { className: "row end" }, make("button", { type: "submit", className: "main", textContent: "Go on" })),
    ),
  );
  document.body.append(dialog);
  const focused = document.activeElement;
  dialog.showModal();
  await new Promise((resolve) => {
    dialog.onclose = resolve;
  });
  dialog.remove();
  focused?.focus();
  if (field.value) localStorage.setItem(PLACE, field.value.trim());
}
