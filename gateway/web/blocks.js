// Where a growing markdown text can be cut: blocks that are complete never change again, so only the rest is made anew.

import { Marked } from "./node_modules/marked/lib/marked.esm.js";
import { escaped, formulas } from "./math.js";

/** An open paragraph or list longer than this is cut inside. */
export const LONG_CHARS = 3000;
/** So is a table, as its columns are measured anew with every row, and what is nested in one item of a list. */
const LONG_INSIDE_CHARS = { table: 4500, list: 6000 };
/** So is anything else that is longer than this. */
export const LONGEST_CHARS = 12_000;

const FENCE = /^( {0,3})(`{3,}|~{3,})([^\n]*)\n/;
const PLAIN_TAGS = /^<\/?(?:br|sub|sup|kbd)\s*\/?>$/i;

export const marked = new Marked({
  extensions: formulas,
  gfm: true,
  renderer: {
    // What a model writes as HTML is shown as it is written, but for a few harmless tags.
    html: ({ text, block }) => {
      if (PLAIN_TAGS.test(text.trim())) return text;
      return block ? `<p>${escaped(text)}</p>` : escaped(text);
    },
    // Nothing is fetched from elsewhere unasked.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
  },
});

/** The fence that the text opens with, as {indent, marker, language, length}; null for anything else. */
export function fenceOf(source) {
  const found = FENCE.exec(source);
  if (!found || (found[2][0] === "`" && found[3].includes("`"))) return null;
  return { marker: found[2], language: found[3].trim().split(/\s/)[0], length: found[0].length };
}

/** Whether this line closes that fence. */
export function closes(line, marker) {
  const found = /^ {0,3}(`+|~+)\s*$/.exec(line);
  return found !== null && found[1][0] === marker[0] && found[1].length >= marker.length;
}

/**
 * Where complete pieces of the text end, in characters. What follows the last one may still change.
 *
 * carry: what must be put before the rest, so that it is read as what it is: the head of a table that was cut.
 */
export function completePieces(source) {
  const tokens = new marked.Lexer(marked.defaults).blockTokens(source, []);
  while (tokens.length && tokens.at(-1).type === "space") tokens.pop();
  const ends = [];
  let end = 0;
  for (const token of tokens.slice(0, -1)) ends.push((end += token.raw.length));
  const open = source.slice(end);
  const cut = tokens.length ? cutWithin(tokens.at(-1), open) : 0;
  if (!cut) return { ends, carry: "" };
  const isTable = tokens.at(-1).type === "table" && cut < open.length;
  return { ends: [...ends, end + cut], carry: isTable ? open.split("\n", 2).join("\n") + "\n" : "" };
}

/** Where the last block, which may grow, is cut because it is long; 0: it is not. */
function cutWithin(token, source) {
  if (source.length > LONG_CHARS && token.type === "list" && token.items.length > 2) {
    return token.items.slice(0, -1).reduce((sum, item) => sum + item.raw.length, 0);
  }
  if (source.length > LONG_CHARS && token.type === "paragraph") return paragraphEnd(source);
  const limit = LONG_INSIDE_CHARS[token.type] ?? LONGEST_CHARS;
  return source.length > limit ? source.indexOf("\n", limit - LONG_CHARS / 2) + 1 : 0;
}

function paragraphEnd(source) {
  for (const stop of [/[.!?。！？]["')\]]?\s+/g, /\s+/g]) {
    const ends = Array.from(source.slice(0, LONG_CHARS).matchAll(stop), (found) => found.index + found[0].length);
    const end = ends.reverse().find((each) => isBalanced(source.slice(0, each)));
    if (end) return end;
  }
  return source.length > 2 * LONG_CHARS ? LONG_CHARS : 0;
}

/** Whether no emphasis, code, link or formula is open at the end of the text. */
function isBalanced(text) {
  const count = (mark) => text.split(mark).length - 1;
  return ["`", "**", "*", "$", "~~"].every((mark) => count(mark) % 2 === 0) && count("[") === count("]");
}
