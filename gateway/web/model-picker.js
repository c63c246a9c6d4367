// The choice of a model, by family, with its card and licence.

import { graft, prune } from "./graft.js";
import { make } from "./make.js";

export class ModelPicker {
  #models;
  #select;
  #links;

  /** choose: called with a model's key. */
  constructor(models, select, links, choose) {
    this.#models = models;
    this.#select = select;
    this.#links = links;
    select.onchange = () => choose(select.value);
  }

  /** Show the models; `chosen` is the one of the open chat. */
  show(chosen) {
    const groups = this.#models.families.map((family) =>
      make("optgroup", { label: family.name }, ...family.models.map((model) => option(model))),
    );
    if (this.#isOther(groups)) this.#select.replaceChildren(...groups);
    this.#select.value = chosen.key;
    const { model_card: card, license } = chosen.frontend;
    const links = [link(card, "Model card"), link(license, "Licence")].filter(Boolean);
    prune(this.#links, graft(this.#links, links));
  }

  /** Whether the list differs from what is shown: an open list must not be touched without need. */
  #isOther(groups) {
    const shown = Array.from(this.#select.children);
    return groups.length !== shown.length || groups.some((group, index) => !group.isEqualNode(shown[index]));
  }
}

function option(model) {
  const name = model.frontend.name || model.key;
  return make("option", { value: model.key, textContent: model.live_workers ? name : `${name} (offline)` });
}

/** A licence may be a name instead of an address. */
function link(target, name) {
  if (!target) return null;
  if (!/^https?:\/\//.test(target)) return make("span", { textContent: `${name}: ${target}` });
  return make("a", { href: target, textContent: name, target: "_blank", rel: "noopener noreferrer" });
}
