// Highlights code beside the page's own thread: {id, code, language} → {id, runs: [[classes, text], ...]}.

import hljs from "./node_modules/@highlightjs/cdn-assets/es/highlight.min.js";
import { runsOf } from "./runs.js";

/** Longer code of an unknown language is left plain: every known one would have to be tried. */
const GUESSED_CHARS = 4000;

onmessage = ({ data: { id, code, language } }) => {
  postMessage({ id, runs: highlighted(code, language) });
};

function highlighted(code, language) {
  if (hljs.getLanguage(language)) return runsOf(hljs.highlight(code, { language, ignoreIllegals: true }).value);
  return language || code.length > GUESSED_CHARS ? [["", code]] : runsOf(hljs.highlightAuto(code).value);
}
