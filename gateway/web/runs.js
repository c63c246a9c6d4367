// The output of highlight.js, which is nested spans, as a flat list of texts with their classes.

const PART = /<span class="([^"]*)">|<\/span>|([^<]+)/g;
const NAMES = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };

/** [[classes, text], ...]: the classes of all spans around a text, separated by spaces. */
export function runsOf(html) {
  const runs = [];
  const open = [];
  for (const [, classes, text] of html.matchAll(PART)) {
    if (text !== undefined) runs.push([open.join(" "), text.replace(/&(amp|lt|gt|quot|#x27);/g, (_, name) => NAMES[name])]);
    else if (classes !== undefined) open.push(classes);
    else open.pop();
  }
  return runs;
}

/** The runs by groups of that many lines; a line's end belongs to it. */
export function byLines(runs, count) {
  const groups = [[]];
  let lines = 0;
  for (const [classes, text] of runs) {
    for (const part of text.split(/(?<=\n)/)) {
      if (lines === count) {
        groups.push([]);
        lines = 0;
      }
      groups.at(-1).push([classes, part]);
      if (part.endsWith("\n")) lines += 1;
    }
  }
  return groups;
}
