// System prompt and sampling of one chat. A field that is empty leaves it to the model's own setting.

import { SAMPLING } from "./dialogue.js";
import { SYSTEM } from "./prompt.js";

/** The choice that leaves sampling to the model. */
const OWN = "own";
const GREEDY = "While the most likely word is chosen, temperature, top p, top k and seed change nothing.";
const NUMBERS = SAMPLING.filter((name) => name !== "do_sample");

export class Settings {
  #panel;
  #form;
  #change;
  #isOwnGreedy = false;

  /** change: called with {system, params} when they are to be kept. */
  constructor(panel, change) {
    this.#panel = panel;
    this.#form = panel.querySelector("form");
    this.#change = change;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#keep();
    };
    panel.querySelector("[name=defaults]").onclick = () => this.#fill({ system: SYSTEM, params: {} });
    panel.querySelector("[name=cancel]").onclick = () => panel.close();
    this.#form.onchange = () => this.#explain();
  }

  /** Show the settings of a dialogue; `own` is what its model uses by itself. */
  open(dialogue, own) {
    const { elements } = this.#form;
    this.#isOwnGreedy = !own.do_sample;
    for (const name of NUMBERS) elements[name].placeholder = own[name] ?? "none";
    elements.do_sample[0].nextElementSibling.textContent = `As the model's (${own.do_sample ? "sample" : "most likely word"})`;
    this.#fill(dialogue);
    this.#panel.showModal();
  }

  #fill({ system, params }) {
    const { elements } = this.#form;
    elements.system.value = system;
    for (const name of NUMBERS) elements[name].value = params[name] ?? "";
    elements.do_sample.value = String(params.do_sample ?? OWN);
    this.#explain();
  }

  /** Say which fields do nothing as things are. */
  #explain() {
    const chosen = this.#form.elements.do_sample.value;
    const isGreedy = chosen === OWN ? this.#isOwnGreedy : chosen === "0";
    this.#panel.querySelector("#greedy").textContent = isGreedy ? GREEDY : "";
  }

  #keep() {
    const { elements } = this.#form;
    const given = SAMPLING.filter((name) => !["", OWN].includes(elements[name].value));
    const params = Object.fromEntries(given.map((name) => [name, Number(elements[name].value)]));
    this.#change({ system: elements.system.value.trim(), params });
    this.#panel.close();
  }
}
