// Formulas for marked: kept as they were written, so that markdown takes nothing out of them.
//
// \( \) and $ $ in a line; \[ \] and $$ $$ in a line or as a block. A single $ counts where no space is inside of it and
// no digit follows, so that prices stay prices.

const INLINE = /^(?:\$\$[^$]+\$\$|\\\([\s\S]+?\\\)|\\\[[\s\S]+?\\\]|\$(?![\s$])(?:[^$\n\\]|\\.)+?(?<!\s)\$(?!\d))/;
const BLOCK = /^(?:\$\$\s*\n[\s\S]+?\n\s*\$\$|\\\[\s*\n[\s\S]+?\n\s*\\\])[^\S\n]*(?:\n+|$)/;

const inline = {
  name: "formula",
  level: "inline",
  start: (source) => source.match(/\$|\\[([]/)?.index,
  tokenizer(source) {
    const raw = INLINE.exec(source)?.[0];
    return raw && { type: "formula", raw, text: raw };
  },
  renderer: (token) => `<code class="formula">${escaped(token.text)}</code>`,
};

const block = {
  name: "formulas",
  level: "block",
  start: (source) => source.match(/^(?:\$\$|\\\[)/m)?.index,
  tokenizer(source) {
    const raw = BLOCK.exec(source)?.[0];
    return raw && { type: "formulas", raw, text: raw.trim() };
  },
  renderer: (token) => `<pre class="formula"><code>${escaped(token.text)}</code></pre>`,
};

export const formulas = [inline, block];

/** Text as HTML. */
export function escaped(text) {
  return text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);
}
