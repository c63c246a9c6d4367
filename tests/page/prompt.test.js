// How dialogues are written down.

import assert from "node:assert/strict";
import { test } from "node:test";

import { create, exported, imported, matches, successor } from "../../gateway/web/dialogue.js";
import { cutStop, promptOf, withoutStopBegin } from "../../gateway/web/prompt.js";

const LLAMA = { sep_token: "###", stop_token: "###", extra_stop_sequences: ["</s>"] };
const BLOOM = { sep_token: "\n\n", stop_token: "</s>", extra_stop_sequences: ["\n\nHuman"] };
const MESSAGES = [
  { role: "user", text: "hi" },
  { role: "assistant", text: " Hello." },
  { role: "user", text: "more" },
];

test("a prompt in the words of the original page", () => {
  const dialogue = create({ system: "Be kind.", messages: MESSAGES });
  assert.equal(
    promptOf(dialogue, LLAMA),
    "Be kind.###Assistant: Hi! How can I help you?###Human: hi###Assistant: Hello.###Human: more###Assistant:",
  );
});

test("a model whose answers end with something else than turns", () => {
  const dialogue = create({ system: "", messages: MESSAGES });
  assert.equal(
    promptOf(dialogue, BLOOM),
    "Assistant: Hi! How can I help you?\n\nHuman: hi\n\nAssistant: Hello.</s>\n\nHuman: more\n\nAssistant:",
  );
});

test("an open answer is gone on with", () => {
  const dialogue = create({ system: "", messages: MESSAGES.slice(0, 2) });
  assert.ok(promptOf(dialogue, LLAMA).endsWith("###Human: hi###Assistant: Hello."));
});

test("stop sequences are cut off, and not shown while they come", () => {
  assert.deepEqual(cutStop(" Hi.</s>", LLAMA), { text: " Hi.", stopped: true });
  assert.deepEqual(cutStop(" Hi.", LLAMA), { text: " Hi.", stopped: false });
  assert.equal(withoutStopBegin(" Hi.##", LLAMA), " Hi.");
  assert.equal(withoutStopBegin(" a < b", LLAMA), " a < b");
  assert.equal(withoutStopBegin(" Hi.\n\nHum", BLOOM), " Hi.");
});

test("a successor knows the last turns", () => {
  const next = successor(create({ title: "T", system: "S", model: "m", messages: MESSAGES }));
  assert.equal(next.note, "Summary of the conversation so far: Human: hi Assistant: Hello. Human: more");
  assert.deepEqual([next.system, next.model, next.title, next.messages.length], ["S", "m", "T (continued)", 0]);
});

test("what is exported can be imported, under another id", () => {
  const dialogue = create({ title: "T", messages: MESSAGES, params: { temperature: 0.5 } });
  const [copy] = imported(exported([dialogue]));
  assert.notEqual(copy.id, dialogue.id);
  assert.deepEqual({ ...copy, id: "", isNamed: true }, { ...dialogue, id: "", isNamed: true });
});

test("settings that a chat does not have are not imported", () => {
  const params = { top_k: 4, temperature: "hot", seed: null, max_new_tokens: 9, job_id: "x", type: 1 };
  const [copy] = imported(exported([create({ messages: MESSAGES, params })]));
  assert.deepEqual(copy.params, { top_k: 4 });
});

test("other files are refused", () => {
  for (const text of ["{", "[]", "null", '{"format":"corolla-chats","version":2,"chats":[]}']) {
    assert.throws(() => imported(text));
  }
  const broken = { format: "corolla-chats", version: 1, chats: [{ title: "T", messages: [{ role: "root", text: "x" }] }] };
  assert.throws(() => imported(JSON.stringify(broken)), TypeError);
});

test("search looks for all words, in titles and messages", () => {
  const dialogue = create({ title: "Cats", messages: MESSAGES });
  assert.ok(matches(dialogue, ["cat", "HELLO"]));
  assert.ok(!matches(dialogue, ["cat", "dog"]));
});
