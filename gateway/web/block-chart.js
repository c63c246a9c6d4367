// How many servers hold each block of a model, as a bar for each.

import { make } from "./make.js";

const WIDEST_REM = 5; // of a bar

/** What the bars show, in words. counts: servers by block, at least one block. */
export function told(counts) {
  const all = counts.length === 1 ? "One block" : `${counts.length} blocks`;
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const held = least === most ? servers(least) : `${least} to ${servers(most)}`;
  if (least > 0) return `${all}, each on ${held}.`;
  if (most === 0) return `${all}, and no server holds any of them.`;
  const missing = counts.filter((count) => count === 0).length;
  return `${all}, on up to ${servers(most)} each. Nobody holds ${missing === 1 ? "block" : "the blocks"} ${gaps(counts)}.`;
}

/** The blocks that nobody holds, as ranges, counted from 0: "3, 7–9". */
export function gaps(counts) {
  const ranges = [];
  for (const [block, count] of counts.entries()) {
    if (count) continue;
    if (ranges.at(-1)?.[1] === block - 1) ranges.at(-1)[1] = block;
    else ranges.push([block, block]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}

/** The bars, with the words for those who do not see them. */
export function blockChart(counts) {
  const most = Math.max(...counts, 1);
  const bars = counts.map((count, block) => {
    const bar = make("span", { className: count ? "bar-of" : "bar-of none", title: `Block ${block}: ${servers(count)}` });
    bar.style.height = `${count ? (100 * count) / most : 100}%`;
    return bar;
  });
  const drawing = make("div", { className: "bars", role: "img", ariaLabel: told(counts) }, ...bars);
  const scale = make("div", { className: "scale", ariaHidden: "true" }, label(most), label(0));
  const feet = make("div", { className: "feet", ariaHidden: "true" }, label("block 0"), label(counts.length - 1));
  const chart = make("div", { className: "chart" }, scale, drawing, feet);
  chart.style.maxWidth = `${2 + WIDEST_REM * counts.length}rem`;
  return chart;
}

function servers(count) {
  return count === 1 ? "1 server" : `${count} servers`;
}

function label(text) {
  return make("span", { textContent: text });
}
