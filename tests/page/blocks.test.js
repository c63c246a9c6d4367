// Where a growing text is cut, and what markdown makes of it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { LONGEST_CHARS, closes, completePieces, fenceOf, marked } from "../../gateway/web/blocks.js";
import { byLines, runsOf } from "../../gateway/web/runs.js";

/** The pieces that a text falls into while it grows by `step` characters, and the longest rest that was open. */
function cut(text, step = text.length) {
  const pieces = [];
  let [end, carried, longest] = [0, "", 0];
  for (let size = step; size < text.length + step; size += step) {
    const { ends, carry } = completePieces(carried + text.slice(end, size));
    if (ends.length) {
      const cuts = [end, ...ends.map((each) => each + end - carried.length)];
      for (const [index, each] of cuts.slice(1).entries()) pieces.push(text.slice(cuts[index], each));
      end = cuts.at(-1);
      carried = carry;
    }
    longest = Math.max(longest, Math.min(size, text.length) - end);
  }
  return { pieces: [...pieces, text.slice(end)], longest };
}

test("a block is complete when another one follows", () => {
  const { pieces } = cut("# T\n\none\ntwo\n\n- a\n- b\n\nend");
  assert.deepEqual(pieces.map((piece) => piece.trim()).filter(Boolean), [
    "# T",
    "one\ntwo",
    "- a\n- b",
    "end",
  ]);
});

test("nothing is lost, and what is open stays short, whatever the text", () => {
  const texts = {
    words: "abcd ".repeat(20_000),
    sentences: "A sentence of some words. ".repeat(4000),
    list: "- an item of a list\n".repeat(5000),
    table: `| a | b |\n|---|---|\n${"| 1 | 2 |\n".repeat(9000)}`,
    nothing: "x".repeat(50_000),
  };
  for (const [name, text] of Object.entries(texts)) {
    const { pieces, longest } = cut(text, 500);
    assert.equal(pieces.join(""), text, name);
    assert.ok(longest <= LONGEST_CHARS + 500, name);
  }
});

test("a long paragraph is cut where no emphasis is open", () => {
  const text = `${"Some words here. ".repeat(170)}**bold. still. bold** ${"And more of them. ".repeat(60)}`;
  const [end] = completePieces(text).ends;
  assert.equal(text.slice(0, end).split("**").length % 2, 1);
});

test("a table that is cut keeps its head", () => {
  const { ends, carry } = completePieces(`| a | b |\n|---|---|\n${"| 1 | 2 |\n".repeat(2000)}`);
  assert.equal(ends.length, 1);
  assert.equal(carry, "| a | b |\n|---|---|\n");
});

test("fences", () => {
  assert.deepEqual(fenceOf("```python title\nx"), { marker: "```", language: "python", length: 16 });
  assert.equal(fenceOf("```py"), null);
  assert.equal(fenceOf("a ```\n"), null);
  assert.ok(closes("````", "```"));
  assert.ok(!closes("~~~", "```"));
  assert.ok(!closes("``", "```"));
});

test("formulas are left as they are, prices are prices", () => {
  const html = marked.parse("$a_1 * b_2 * c$ and \\(x_1 + y_1\\) cost $5 or $6.\n\n$$\nx = 1\n- y_1\n$$\n");
  assert.equal(
    html.trim(),
    '<p><code class="formula">$a_1 * b_2 * c$</code> and <code class="formula">\\(x_1 + y_1\\)</code> cost $5 or $6.</p>\n' +
      '<pre class="formula"><code>$$\nx = 1\n- y_1\n$$</code></pre>',
  );
});

test("HTML is shown as it is written", () => {
  assert.equal(marked.parse("a <b onclick=x> c<br>d"), "<p>a &#60;b onclick=x&#62; c<br>d</p>\n");
  assert.equal(marked.parse("<script>x</script>"), "<p>&#60;script&#62;x&#60;/script&#62;</p>");
});

test("highlighted code as runs, and by lines", () => {
  const runs = runsOf('<span class="a">if</span> x &lt; <span class="b">f(<span class="c">1\n2</span>)</span>\n');
  assert.deepEqual(runs, [["a", "if"], ["", " x < "], ["b", "f("], ["b c", "1\n2"], ["b", ")"], ["", "\n"]]);
  assert.deepEqual(byLines(runs, 1), [
    [["a", "if"], ["", " x < "], ["b", "f("], ["b c", "1\n"]],
    [["b c", "2"], ["b", ")"], ["", "\n"]],
  ]);
});
