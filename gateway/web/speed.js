// How fast an answer is being written.

/** Older words do not count, as long as there are two that do. */
const WINDOW_MS = 10_000;
/** After coming back, what was written meanwhile arrives at once. */
const REPLAY_MS = 500;

export class Speed {
  #from = 0;
  #arrivals = [];

  /** Begin anew. isReplayed: what comes first was written before. */
  begin(isReplayed = false) {
    this.#from = isReplayed ? null : 0;
    this.#arrivals = [];
  }

  /** So many tokens came at that time. */
  add(tokens, now_ms) {
    this.#from ??= now_ms + REPLAY_MS;
    if (now_ms < this.#from) return;
    this.#arrivals.push({ tokens, at_ms: now_ms });
    while (this.#arrivals.length > 2 && this.#arrivals[0].at_ms < now_ms - WINDOW_MS) this.#arrivals.shift();
  }

  /** Tokens per second lately, at that time; 0 where too little is known. */
  at(now_ms) {
    const [first, ...others] = this.#arrivals;
    if (!others.length || now_ms <= first.at_ms) return 0;
    return (1000 * others.reduce((sum, { tokens }) => sum + tokens, 0)) / (now_ms - first.at_ms);
  }
}
