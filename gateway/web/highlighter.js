// Highlighted code, from a worker that starts with the first request.

const WORKER = new URL("./highlight-worker.js", import.meta.url).href;

let worker = null;
let asked = 0;
const waiting = new Map();

/** The code as runs (see runs.js); plain where it cannot be highlighted. */
export function highlight(code, language) {
  worker ??= start();
  return new Promise((resolve) => {
    waiting.set(++asked, (runs) => resolve(runs ?? [["", code]]));
    worker.postMessage({ id: asked, code, language });
  });
}

function start() {
  const policy = globalThis.trustedTypes?.createPolicy("highlighter", { createScriptURL: () => WORKER });
  const started = new Worker(policy ? policy.createScriptURL(WORKER) : WORKER, { type: "module" });
  started.onmessage = ({ data: { id, runs } }) => settle(id, runs);
  started.onerror = () => Array.from(waiting.keys(), (id) => settle(id, null));
  return started;
}

function settle(id, runs) {
  const resolve = waiting.get(id);
  waiting.delete(id);
  resolve?.(runs);
}
