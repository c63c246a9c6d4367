// The models that are served, from GET /api/v1/models.

import { get } from "./api-key.js";

const PERIOD_MS = 10_000;

/**
 * families: as the API gives them; longestPrompt: in characters, that it takes; askedAt: when they were asked for, as
 * performance.now() tells it. Tells its listeners whenever they were read.
 */
export class Models {
  families = [];
  longestPrompt = Infinity;
  askedAt = 0;
  #byName = new Map();
  #default = "";
  #listeners = [];

  /** Read them, once and then again and again while somebody looks. Rejects where the first time fails. */
  async watch() {
    await this.#read();
    setInterval(() => document.hidden || this.refresh(), PERIOD_MS);
  }

  /** Read them again; where that fails they stay as they are. */
  refresh() {
    return this.#read().catch(() => {});
  }

  listen(listener) {
    this.#listeners.push(listener);
  }

  /** The model of that key or alias; the default one where there is none. */
  find(name) {
    return this.#byName.get(name) ?? this.#byName.get(this.#default);
  }

  /** What people call the model; its key where it is not served any more. */
  nameOf(name) {
    return this.#byName.get(name)?.frontend.name || name || "Assistant";
  }

  async #read() {
    const askedAt = performance.now();
    const answer = await get("/api/v1/models");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const { default: key, families, max_prompt_chars: longestPrompt } = await answer.json();
    Object.assign(this, { families, longestPrompt, askedAt });
    this.#default = key;
    for (const model of families.flatMap((family) => family.models)) {
      for (const name of [model.key, ...model.aliases]) this.#byName.set(name, model);
    }
    for (const listener of this.#listeners) listener();
  }
}
