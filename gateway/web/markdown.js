// Markdown as a document fragment, in which nothing is left that could do harm.

import purify from "./node_modules/dompurify/dist/purify.es.mjs";
import { marked } from "./blocks.js";

const ALLOWED = {
  ALLOWED_TAGS: (
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr input kbd li ol p pre strong sub sup " +
    "table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "start", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["align", "start", "type"], // others have to match the line above
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const TEXTS = "p, li, h1, h2, h3, h4, h5, h6, blockquote, td, th";

/** The markdown as nodes. Each block finds its own writing direction. */
export function rendered(source) {
  const fragment = purify.sanitize(marked.parse(source), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const block of fragment.querySelectorAll(TEXTS)) block.dir = "auto";
  for (const box of fragment.querySelectorAll("input")) {
    box.disabled = true;
    box.ariaLabel = box.checked ? "done" : "to do";
  }
  for (const table of fragment.querySelectorAll("table")) frame(table);
  return fragment;
}

/** A wide table scrolls by itself, with the keyboard as well. */
function frame(table) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  frame.role = "region";
  frame.ariaLabel = "Table";
  table.replaceWith(frame);
  frame.append(table);
}
