// The dialogue with WebSocket /api/v2/generate as a pure state machine, one for each chat: what happens goes in, actions
// come out. It knows neither sockets nor clocks; line.js performs what it says.
//
// Actions: {do: "connect"} a new socket; {do: "hangup"} leave it, and its session ends; {do: "part"} leave it, while the
// session lives on; {do: "send", frame}; {do: "wait", ms} then call due().
// News for whoever asked: {tell: "asked"} there is a cursor to come back to, {tell: "text", text, tokens},
// {tell: "queued", ahead}, {tell: "lost", attempt} (0: the browser is offline, which no attempt can change),
// {tell: "back"}, {tell: "ended", how}, {tell: "failed", kind, detail}.

import { cutStop } from "./prompt.js";
import { kindOf } from "./trouble.js";

/** Tokens that a session may hold, in steps: a server keeps room for all of them, so short chats ask for little. */
export const LENGTHS = [512, 2048, 8192];
/** Attempts in a row that may fail before the chat gives up, and the pauses between them. */
export const ATTEMPTS = 10;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8000;
/** How long a stopped answer may take to end before it is left behind. */
const STOP_MS = 3000;
/** Errors after which the same is tried again, in a new session. */
const PASSING = new Set(["expired", "idle", "interrupted", "unreachable"]);

/** The pause before that attempt, from 1; chance (0 .. 1) spreads those who lost their connection together. */
export function pauseMs(attempt, chance) {
  const pause = Math.min(FIRST_PAUSE_MS * 2 ** (attempt - 1), LONGEST_PAUSE_MS);
  return Math.round(pause * (0.75 + chance / 2));
}

/**
 * A task is {model, chat, params, prompt, longest}: what to go on with, by which model, and how. longest: how many
 * characters a call may bring.
 *
 * session: {id, model, maxLength, text}: text is all that the session holds, up to the job under way.
 * text: what came of the answer since it was asked for. seq: where its job's log was read up to.
 */
export class Exchange {
  constructor(newId, chance = Math.random) {
    this.newId = newId;
    this.chance = chance;
    this.session = null;
    this.isOpen = false;
    this.#rest();
  }

  #rest() {
    this.phase = "idle";
    this.task = null;
    this.job = "";
    this.seq = 0;
    this.text = "";
    this.attempts = 0;
    this.pauses = 0;
    this.isLost = false;
    this.isStopping = false;
  }

  /** Have an answer written. */
  ask(task) {
    const wasBusy = this.task !== null;
    this.#rest();
    this.task = task;
    if (wasBusy) return this.#anew();
    const { session } = this;
    if (session && (session.model !== task.model || !task.prompt.startsWith(session.text))) return this.#anew();
    this.job = this.newId();
    if (this.isOpen && session) return this.#generate();
    return this.#connect();
  }

  /** Go on with an answer that was under way when the page was left. cursor: see cursor(), and the text up to it. */
  restore(task, cursor) {
    this.#rest();
    const { job, seq, text, held, ...session } = cursor;
    session.text = (task.prompt + text).slice(0, held);
    Object.assign(this, { task, session, job, seq, text });
    return this.#connect();
  }

  /** What restore() needs besides the text; null while there is nothing to come back to. */
  cursor() {
    const { session, job, seq } = this;
    if (!this.task || !session) return null;
    const { id, model, maxLength } = session;
    return { id, model, maxLength, held: session.text.length, job, seq };
  }

  /** The socket is open. */
  connected() {
    this.isOpen = true;
    const { session, task } = this;
    if (!session) {
      this.phase = "opening";
      const maxLength = this.#length();
      return [send({ type: "open_inference_session", model: task.model, max_length: maxLength, ...COMING_BACK })];
    }
    const cursor = this.seq ? { job_id: this.job, after: this.seq, max_new_tokens: 1 } : {};
    this.phase = this.seq ? "writing" : "opening";
    return [send({ type: "resume", session_id: session.id, progress: true, ...cursor })];
  }

  /** A frame came. */
  received(reply) {
    if (!reply.ok) return this.#failed(reply.traceback ?? "");
    if (!this.task) return [];
    const news = this.isLost ? [{ tell: "back" }] : [];
    this.isLost = false;
    if (this.phase === "opening") return [...news, ...this.#opened(reply)];
    if (reply.queued !== undefined) return [...news, { tell: "queued", ahead: reply.queued }];
    if (reply.outputs === undefined) return news;
    this.text += reply.outputs;
    this.seq = reply.seq ?? this.seq;
    this.attempts = this.pauses = 0; // only words count as success: a gateway may take a question and break again
    if (reply.outputs) news.push({ tell: "text", text: reply.outputs, tokens: reply.token_count });
    return reply.stop ? [...news, ...this.#stopped(reply)] : news;
  }

  /** The socket is gone, and not by our own doing. isOnline: so the attempt counts. */
  closed(isOnline = true) {
    this.isOpen = false;
    if (!this.task) return [];
    if (this.isStopping) {
      this.session = null; // it may hold more than was read
      return this.#end("cancelled");
    }
    return isOnline ? this.#again("connection", "") : this.#wait(0);
  }

  /** The time of {do: "wait"} is over. */
  due() {
    if (this.phase === "waiting") return this.#connect();
    if (!this.isStopping) return [];
    this.session = null;
    this.isOpen = false;
    return [{ do: "hangup" }, ...this.#end("cancelled")];
  }

  /** The network is back: no need to wait any longer. */
  online() {
    return this.phase === "waiting" ? this.#connect() : [];
  }

  /** End the answer where it is. */
  stop() {
    if (!this.task || this.isStopping) return [];
    if (this.phase === "writing" && this.isOpen) {
      this.isStopping = true;
      return [send({ type: "cancel" }), { do: "wait", ms: STOP_MS }];
    }
    this.session = null;
    this.isOpen = false;
    return [{ do: "hangup" }, ...this.#end("cancelled")];
  }

  /** Drop what is under way, and the session with it. */
  leave() {
    this.#rest();
    Object.assign(this, { session: null, isOpen: false });
    return [{ do: "hangup" }];
  }

  /** Another page goes on with the session: leave it to that one. */
  part() {
    Object.assign(this, { session: null, isOpen: false });
    return [{ do: "part" }];
  }

  #connect() {
    this.phase = "connecting";
    return [{ do: "connect" }];
  }

  /** Go on in a new session, with all that there is as its prompt. */
  #anew() {
    Object.assign(this, { session: null, isOpen: false, job: this.newId(), seq: 0 });
    return [{ do: "hangup" }, ...this.#connect()];
  }

  #opened(reply) {
    const { task } = this;
    this.session ??= { id: reply.session_id, model: task.model, maxLength: this.#length(), text: "" };
    return this.#generate();
  }

  #generate() {
    const { chat, params, prompt, longest } = this.task;
    this.phase = "writing";
    const inputs = (prompt + this.text).slice(this.session.text.length);
    if (inputs.length > longest) return this.#fail("too-long", "");
    const stops = { stop_sequence: chat.stop_token, extra_stop_sequences: chat.extra_stop_sequences };
    const frame = { ...params, type: "generate", job_id: this.job, max_new_tokens: 1, ...stops };
    return [send(inputs ? { ...frame, inputs } : frame), { tell: "asked" }];
  }

  /** Tokens to ask for: the first step that leaves room, and never fewer than were too few before. */
  #length() {
    const { chat, prompt } = this.task;
    const longest = chat.max_session_length;
    const wanted = Math.max((prompt.length + this.text.length) / 3 + 256, (this.task.tooShort ?? 0) + 1);
    return Math.min(LENGTHS.find((length) => length >= wanted) ?? longest, longest);
  }

  /** The answer is over. kept: its session goes on; one that lacks the answer is of no use. */
  #stopped({ reason, kept }) {
    const { chat, prompt } = this.task;
    const { text, stopped } = cutStop(this.text, chat);
    const news = this.#end(reason === "cancelled" ? "cancelled" : "stopped");
    if (!kept) {
      Object.assign(this, { session: null, isOpen: false });
      return [{ do: "hangup" }, ...news];
    }
    // After an extra stop sequence the session goes on as if the model had written its own.
    this.session.text = prompt + (stopped ? text + chat.stop_token : text);
    return news;
  }

  #failed(detail) {
    const kind = kindOf(detail);
    const { session, task } = this;
    this.isOpen = false; // the server closes after every error, and forgets the session
    this.session = null;
    if (!task) return [];
    if (this.isStopping) return this.#end("cancelled");
    if (kind === "too-large") return this.#fail("too-long", detail);
    const tried = session?.maxLength ?? this.#length();
    if (kind === "too-long" && tried < task.chat.max_session_length) {
      task.tooShort = tried;
      return this.#anew();
    }
    if (kind === "late" && this.seq) return this.#anew();
    if (kind === "late" && !this.text) return this.#fail("unserved", detail);
    return PASSING.has(kind) ? this.#again(kind, detail) : this.#fail(kind, detail);
  }

  #again(kind, detail) {
    this.attempts += 1;
    if (this.attempts > ATTEMPTS) return this.#fail(kind, detail);
    if (!this.session) Object.assign(this, { job: this.newId(), seq: 0 });
    return this.#wait(this.attempts);
  }

  /** Come back after a pause. Pauses grow while browsers are offline as well, as some say so without being it. */
  #wait(attempt) {
    this.phase = "waiting";
    this.isLost = true;
    this.pauses += 1;
    const ms = pauseMs(this.pauses, this.chance());
    return [{ do: "hangup" }, { tell: "lost", attempt }, { do: "wait", ms }];
  }

  #fail(kind, detail) {
    Object.assign(this, { session: null, isOpen: false }); // it ends with the socket, and may hold more than was read
    this.#rest();
    return [{ do: "hangup" }, { tell: "failed", kind, detail }];
  }

  #end(how) {
    this.#rest();
    return [{ tell: "ended", how }];
  }
}

const COMING_BACK = { resumable: true, progress: true };

function send(frame) {
  return { do: "send", frame };
}
