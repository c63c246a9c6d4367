// What GET /api/v1/status tells, drawn, and asked for again and again while somebody looks.

import { get } from "./api-key.js";
import { blockChart, told } from "./block-chart.js";
import { graft, prune } from "./graft.js";
import { make } from "./make.js";
import { bindTheme } from "./theme-switch.js";

const PERIOD_MS = 2000;
const $ = (selector) => document.querySelector(selector);

async function ask() {
  const answer = await get("/api/v1/status");
  const content = await answer.json();
  return content.ok ? content : null;
}

async function update() {
  if (document.hidden) return;
  try {
    const found = await ask();
    say(found ? trouble(found) : "The gateway cannot reach its broker. Below is what it knew last.");
    if (found) draw(found);
  } catch {
    say("The gateway does not answer. Below is what it told last.");
  }
}

/** One sentence, touched only when it changes, since screen readers read it out. */
function say(trouble) {
  const state = $("#state");
  const text = trouble || "Everything is there.";
  if (state.textContent !== text) state.textContent = text;
  state.className = trouble ? "bad" : "good";
}

function trouble({ models }) {
  const idle = models.filter((model) => !model.live_workers).map((model) => model.name);
  const torn = models.filter((model) => model.blocks.includes(0)).map((model) => model.name);
  if (idle.length) return `Nobody serves ${idle.join(", ")} at the moment.`;
  if (torn.length) return `The swarm lacks blocks of ${torn.join(", ")}.`;
  return "";
}

function draw(found) {
  const running = found.workers.reduce((sum, worker) => sum + worker.running, 0);
  const slots = found.workers.reduce((sum, worker) => sum + worker.slots, 0);
  put($("#sums"), [
    sum("Tokens per second", rounded(found.tokens_per_s)),
    sum("Answers being written", `${running} of ${slots}`),
    sum("Waiting", found.waiting),
    sum("Workers", found.workers.length),
    sum("Gateways", found.gateways.length),
  ]);
  put($("#models"), found.models.map(card));
  put($("#workers"), [workerTable(found)]);
  put($("#gateways"), [make("ul", { className: "names" }, ...found.gateways.map(({ name }) => make("li", { textContent: name })))]);
}

function put(place, nodes) {
  prune(place, graft(place, nodes));
}

function sum(name, value) {
  return make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }));
}

function card(model) {
  const facts = [`${model.live_workers} ${model.live_workers === 1 ? "worker" : "workers"}`, `${model.waiting} waiting`];
  const mood = model.live_workers && !model.blocks.includes(0) ? "good" : "bad";
  const heading = make("h3", {}, make("span", { className: `dot ${mood}` }), model.name);
  const line = make("p", { className: "facts", textContent: facts.join(" · ") });
  if (!model.blocks.length) return make("article", {}, heading, line);
  const text = make("p", { className: "hint", textContent: told(model.blocks) });
  return make("article", {}, heading, line, blockChart(model.blocks), text);
}

function workerTable({ workers, models }) {
  if (!workers.length) return make("p", { className: "hint", textContent: "There is no live worker." });
  const names = new Map(models.map(({ key, name }) => [key, name]));
  const head = ["Worker", "Models", "Answers / slots", "Waiting for it", "Tokens per second"];
  const rows = workers.map((worker) => {
    const served = worker.models.map((key) => names.get(key) ?? key).join(", ");
    const figures = [`${worker.running} / ${worker.slots}`, worker.waiting, rounded(worker.tokens_per_s)];
    const cells = [served, ...figures].map((value) => make("td", { textContent: value }));
    return make("tr", {}, make("th", { scope: "row", textContent: worker.name }), ...cells);
  });
  const titles = head.map((title) => make("th", { scope: "col", textContent: title }));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows));
  return make("div", { className: "table", tabIndex: 0, role: "region", ariaLabel: "Table of workers" }, table);
}

function rounded(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

bindTheme($("#theme"));
await update();
document.documentElement.dataset.ready = "";
setInterval(update, PERIOD_MS);
addEventListener("visibilitychange", update);
