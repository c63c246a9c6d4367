// The exchange: what happens goes in, actions come out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ATTEMPTS, Exchange, pauseMs } from "../../gateway/web/exchange.js";

const CHAT = { max_session_length: 8192, sep_token: "###", stop_token: "###", extra_stop_sequences: ["</s>"] };
const SESSION = "5".repeat(32);
const OPENED = { ok: true, session_id: SESSION };

function exchange() {
  let count = 0;
  return new Exchange(() => `job-${++count}`, () => 0.5);
}

function task(prompt = "Human: hi###Assistant:", chat = CHAT) {
  return { model: "demo", chat, params: { do_sample: 0 }, prompt };
}

function reply(outputs, seq) {
  return { ok: true, outputs, seq, stop: false, token_count: 1, job_id: "job" };
}

/** The last one of an answer. */
function last(outputs, seq, reason = "stop", kept = true) {
  return { ...reply(outputs, seq), stop: true, reason, kept };
}

function failure(traceback) {
  return { ok: false, traceback };
}

const frames = (actions) => actions.filter((action) => action.do === "send").map((action) => action.frame);
const news = (actions) => actions.filter((action) => action.tell).map((action) => action.tell);
const deeds = (actions) => actions.filter((action) => action.do).map((action) => action.do);

/** One that writes, after some replies. */
function writing(...replies) {
  const one = exchange();
  one.ask(task());
  one.connected();
  one.received(OPENED);
  for (const [index, outputs] of replies.entries()) one.received(reply(outputs, index + 1));
  return one;
}

test("a first question opens a session and is sent as a whole", () => {
  const one = exchange();
  assert.deepEqual(one.ask(task()), [{ do: "connect" }]);
  assert.deepEqual(frames(one.connected()), [
    { type: "open_inference_session", model: "demo", max_length: 512, resumable: true, progress: true },
  ]);
  assert.deepEqual(frames(one.received(OPENED)), [
    {
      type: "generate",
      job_id: "job-1",
      inputs: "Human: hi###Assistant:",
      max_new_tokens: 1,
      do_sample: 0,
      stop_sequence: "###",
      extra_stop_sequences: ["</s>"],
    },
  ]);
  assert.deepEqual(one.received(reply(" Hi", 1)), [{ tell: "text", text: " Hi", tokens: 1 }]);
  assert.deepEqual(news(one.received(last("###", 2))), ["text", "ended"]);
});

test("settings change nothing but the sampling", () => {
  const one = exchange();
  one.ask({ ...task(), params: { type: "cancel", job_id: "other", max_new_tokens: 99, top_k: 4 } });
  one.connected();
  const [frame] = frames(one.received(OPENED));
  assert.deepEqual([frame.type, frame.job_id, frame.max_new_tokens, frame.top_k], ["generate", "job-1", 1, 4]);
});

test("a second question sends only what is new", () => {
  const one = writing(" Hi");
  one.received(last("###", 2));
  const [frame] = frames(one.ask(task("Human: hi###Assistant: Hi###Human: more###Assistant:")));
  assert.equal(frame.inputs, "Human: more###Assistant:");
  assert.equal(frame.job_id, "job-2");
});

test("an extra stop sequence counts as the model's own", () => {
  const one = writing(" Hi");
  one.received(last("</s>", 2));
  const [frame] = frames(one.ask(task("Human: hi###Assistant: Hi###Human: more###Assistant:")));
  assert.equal(frame.inputs, "Human: more###Assistant:");
});

test("a question that does not follow on needs a new session", () => {
  const one = writing(" Hi");
  one.received(last("###", 2));
  assert.deepEqual(deeds(one.ask(task("Human: other###Assistant:"))), ["hangup", "connect"]);
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
});

test("an idle socket that closes costs nothing", () => {
  const one = writing(" Hi");
  one.received(last("###", 2));
  assert.deepEqual(one.received(failure("TimeoutError: No message came for 300 s, so the session is closed")), []);
  assert.deepEqual(one.closed(), []);
  assert.deepEqual(one.ask(task("Human: hi###Assistant: Hi###Human: more###Assistant:")), [{ do: "connect" }]);
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
});

test("a lost connection goes on after the last message", () => {
  const one = writing(" one", " two");
  assert.deepEqual(one.closed(), [{ do: "hangup" }, { tell: "lost", attempt: 1 }, { do: "wait", ms: 250 }]);
  assert.deepEqual(one.due(), [{ do: "connect" }]);
  assert.deepEqual(frames(one.connected()), [
    { type: "resume", session_id: SESSION, progress: true, job_id: "job-1", after: 2, max_new_tokens: 1 },
  ]);
  assert.deepEqual(one.received(reply(" three", 3)), [{ tell: "back" }, { tell: "text", text: " three", tokens: 1 }]);
});

test("a connection lost before the first message sends the same job again", () => {
  const one = writing();
  one.closed();
  one.due();
  assert.deepEqual(frames(one.connected()), [{ type: "resume", session_id: SESSION, progress: true }]);
  const [frame] = frames(one.received(OPENED));
  assert.equal(frame.job_id, "job-1");
  assert.equal(frame.inputs, "Human: hi###Assistant:");
});

test("an answer that was broken off while nobody was there is asked for again, from where it was", () => {
  const one = writing(" one");
  one.closed();
  one.due();
  one.connected();
  const error = "RuntimeError: The stream was interrupted and cannot go on exactly; please send the request again";
  assert.deepEqual(deeds(one.received(failure(error))), ["hangup", "wait"]);
  one.due();
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
  const opened = one.received(OPENED);
  assert.deepEqual(news(opened), ["back", "asked"]);
  const [frame] = frames(opened);
  assert.equal(frame.job_id, "job-2");
  assert.equal(frame.inputs, "Human: hi###Assistant: one");
  assert.deepEqual(news(one.received(last(" two###", 1))), ["text", "ended"]);
});

test("an answer that ends without a stop sequence is whole, also after a lost connection", () => {
  const one = writing(" one");
  one.closed();
  one.due();
  one.connected();
  assert.deepEqual(one.received(last(" two", 2)).at(-1), { tell: "ended", how: "stopped" });
  const [frame] = frames(one.ask(task("Human: hi###Assistant: one two###Human: more###Assistant:")));
  assert.equal(frame.inputs, "###Human: more###Assistant:");
});

test("an answer that somebody else stopped is not whole", () => {
  const one = writing(" one");
  assert.deepEqual(one.received(last("", 2, "cancelled")), [{ tell: "ended", how: "cancelled" }]);
});

test("an answer that was whole before it could be stopped is whole", () => {
  const one = writing(" one");
  one.stop();
  assert.deepEqual(one.received(last("###", 2)).at(-1), { tell: "ended", how: "stopped" });
});

test("a session that did not keep its answer is left", () => {
  const one = writing(" one");
  one.stop();
  assert.deepEqual(one.received(last("", 2, "cancelled", false)), [
    { do: "hangup" },
    { tell: "ended", how: "cancelled" },
  ]);
  assert.deepEqual(deeds(one.ask(task("Human: hi###Assistant: one"))), ["connect"]);
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
  assert.equal(frames(one.received(OPENED))[0].inputs, "Human: hi###Assistant: one");
});

test("an expired session is made again, with what was written", () => {
  const one = writing(" one");
  one.closed();
  one.due();
  one.connected();
  const actions = one.received(failure(`KeyError: "Session '${SESSION}' expired or does not exist"`));
  assert.deepEqual(deeds(actions), ["hangup", "wait"]);
  one.due();
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
  assert.equal(frames(one.received(OPENED))[0].inputs, "Human: hi###Assistant: one");
});

test("a session that is too short is made again, longer, up to the longest", () => {
  const one = writing(" one");
  const error = failure("ValueError: Maximum length exceeded: prefix 510 + current 3 exceeds pre-allocated maximum 512");
  const asked = [];
  for (let actions = one.received(error); deeds(actions).includes("connect"); actions = one.received(error)) {
    asked.push(frames(one.connected())[0].max_length);
    one.received(OPENED);
  }
  assert.deepEqual(asked, [2048, 8192]);
  assert.deepEqual(one.task, null);
});

test("what is longer than a call may be is not sent", () => {
  const one = exchange();
  one.ask({ ...task("x".repeat(11)), longest: 10 });
  one.connected();
  assert.deepEqual(one.received(OPENED), [{ do: "hangup" }, { tell: "failed", kind: "too-long", detail: "" }]);
});

for (const refusal of [
  "ValueError: `inputs` has 100001 characters, but at most 100000 are allowed",
  "ValueError: A message may have at most 262144 bytes, but has 300000",
]) {
  test(`no longer session is tried after ${refusal}`, () => {
    assert.deepEqual(writing().received(failure(refusal)).at(-1), { tell: "failed", kind: "too-long", detail: refusal });
  });
}

test("a long dialogue asks for a long session at once", () => {
  const one = exchange();
  one.ask(task("x".repeat(3000)));
  assert.equal(frames(one.connected())[0].max_length, 2048);
});

test("attempts end", () => {
  const one = writing(" one");
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    assert.deepEqual(news(one.closed()), ["lost"]);
    one.due();
  }
  assert.deepEqual(one.closed().at(-1), { tell: "failed", kind: "connection", detail: "" });
  // whoever tries again then does so in a new session, with what was written once
  assert.deepEqual(deeds(one.ask(task("Human: hi###Assistant: one"))), ["connect"]);
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
  assert.equal(frames(one.received(OPENED))[0].inputs, "Human: hi###Assistant: one");
});

test("while the browser is offline attempts do not count, but their pauses grow", () => {
  const one = writing(" one");
  const pauses = [];
  for (let attempt = 1; attempt <= 3 * ATTEMPTS; attempt++) {
    const [hangup, lost, wait] = one.closed(false);
    assert.deepEqual([hangup, lost], [{ do: "hangup" }, { tell: "lost", attempt: 0 }]);
    pauses.push(wait.ms);
    one.due();
  }
  assert.deepEqual(pauses.slice(0, 7), [250, 500, 1000, 2000, 4000, 8000, 8000]);
  assert.deepEqual(one.closed()[1], { tell: "lost", attempt: 1 });
});

test("attempts begin anew with every word, but not with a connection alone", () => {
  const one = writing(" one");
  one.closed();
  one.due();
  one.connected();
  assert.deepEqual(news(one.received({ ok: true, queued: 2, outputs: "", stop: false })), ["back", "queued"]);
  assert.deepEqual(one.closed()[1], { tell: "lost", attempt: 2 });
  one.due();
  one.connected();
  assert.deepEqual(news(one.received(reply(" two", 2))), ["back", "text"]);
  assert.deepEqual(one.closed(), [{ do: "hangup" }, { tell: "lost", attempt: 1 }, { do: "wait", ms: 250 }]);
});

test("pauses grow, up to a limit", () => {
  assert.deepEqual([1, 2, 3, 6, 7, 10].map((attempt) => pauseMs(attempt, 0.5)), [250, 500, 1000, 8000, 8000, 8000]);
  assert.deepEqual([pauseMs(6, 0), pauseMs(6, 1)], [6000, 10000]);
});

test("the network's return ends a pause", () => {
  const one = writing(" one");
  assert.deepEqual(one.online(), []);
  one.closed();
  assert.deepEqual(one.online(), [{ do: "connect" }]);
  assert.deepEqual(one.online(), []);
});

test("a stopped answer keeps its session", () => {
  const one = writing(" one");
  assert.deepEqual(frames(one.stop()), [{ type: "cancel" }]);
  assert.deepEqual(one.stop(), []);
  assert.deepEqual(one.received(last(" two", 2, "cancelled")).at(-1), { tell: "ended", how: "cancelled" });
  const [frame] = frames(one.ask(task("Human: hi###Assistant: one two")));
  assert.equal(frame.inputs, undefined);
});

test("an answer that cannot be stopped in time is left behind", () => {
  const one = writing(" one");
  one.stop();
  assert.deepEqual(one.due(), [{ do: "hangup" }, { tell: "ended", how: "cancelled" }]);
  assert.equal(one.session, null);
});

test("what waits for a connection can be stopped", () => {
  const one = writing(" one");
  one.closed();
  assert.deepEqual(news(one.stop()), ["ended"]);
  assert.deepEqual(one.due(), []);
});

test("a new question while one is answered leaves that answer", () => {
  const one = writing(" one");
  assert.deepEqual(deeds(one.ask(task())), ["hangup", "connect"]);
});

test("after a reload the answer goes on where it was read to", () => {
  const cursor = JSON.parse(JSON.stringify(writing(" one", " two").cursor()));
  const one = exchange();
  assert.deepEqual(one.restore(task(), { ...cursor, text: " one two" }), [{ do: "connect" }]);
  assert.equal(frames(one.connected())[0].after, 2);
  one.received(reply(" three", 3));
  one.received(last("###", 4));
  const [frame] = frames(one.ask(task("Human: hi###Assistant: one two three###Human: more###Assistant:")));
  assert.equal(frame.inputs, "Human: more###Assistant:");
});

test("a place in the queue is told", () => {
  const one = writing();
  const queued = { ok: true, queued: 3, stop: false, outputs: "", token_count: 0 };
  assert.deepEqual(one.received(queued), [{ tell: "queued", ahead: 3 }]);
});

for (const [kind, traceback] of Object.entries({
  capacity: "RuntimeError: The attention cache is full: try again",
  "waiting-limit": "RuntimeError: You have 500 requests waiting already, please try again later",
  "rate-limit": "RuntimeError: You have used up what you may ask for in a minute, please try again later",
  busy: "ValueError: Too many opened inference sessions (max 1), please come back later",
  "no-model": "KeyError: 'gone'",
  other: "ValueError: `temperature` must be above 0",
})) {
  test(`${kind} is told at once`, () => {
    assert.deepEqual(writing(" one").received(failure(traceback)), [
      { do: "hangup" },
      { tell: "failed", kind, detail: traceback },
    ]);
  });
}

const LATE = "TimeoutError: The answer was not finished in time, please try again later";

test("a question that nobody took in time is told as such", () => {
  assert.equal(writing().received(failure(LATE)).at(-1).kind, "unserved");
});

test("an answer that takes too long is gone on with as long as something comes", () => {
  const one = writing(" one");
  assert.deepEqual(deeds(one.received(failure(LATE))), ["hangup", "connect"]);
  one.connected();
  assert.equal(frames(one.received(OPENED))[0].inputs, "Human: hi###Assistant: one");
  assert.equal(one.received(failure(LATE)).at(-1).kind, "late");
});

test("a session that was idle when the question came is made again", () => {
  const one = writing(" Hi");
  one.received(last("###", 2));
  one.ask(task("Human: hi###Assistant: Hi###Human: more###Assistant:"));
  const idle = failure("TimeoutError: No message came for 300 s, so the session is closed");
  assert.deepEqual(news(one.received(idle)), ["lost"]);
  one.due();
  assert.equal(frames(one.connected())[0].type, "open_inference_session");
});

test("a swarm that is away is tried again, with what was written", () => {
  const one = writing(" one");
  assert.deepEqual(deeds(one.received(failure("ConnectionError: The swarm does not answer"))), ["hangup", "wait"]);
  one.due();
  one.connected();
  assert.equal(frames(one.received(OPENED))[0].inputs, "Human: hi###Assistant: one");
});

test("a session that another page goes on with is left to it", () => {
  const one = writing(" Hi");
  one.received(last("###", 2));
  assert.deepEqual(one.part(), [{ do: "part" }]);
  assert.equal(one.session, null);
  assert.deepEqual(deeds(one.ask(task("Human: hi###Assistant: Hi###Human: more###Assistant:"))), ["connect"]);
});
