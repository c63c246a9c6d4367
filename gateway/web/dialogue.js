// A dialogue as it is kept: {id, title, isNamed, model, system, note, params, messages, created, changed}.
//
// model: its key, "" for the default one. system: the system prompt. note: what is known from an older chat.
// params: sampling that differs from the model's own. messages: {role: "user" | "assistant", text, model?, how?}, where
// text is as the model wrote it; how: "stopped", "cancelled" or "failed".

import { SYSTEM } from "./prompt.js";

export const FORMAT = "corolla-chats";
/** What may be in params, each a number. */
export const SAMPLING = ["do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed"];
const TITLE_CHARS = 60;
const SUMMARY_TURNS = 6;
const SUMMARY_CHARS = 300;

/** 32 hexadecimal digits that nobody can guess. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An empty dialogue. */
export function create(fields = {}) {
  const now = Date.now();
  const empty = { title: "New chat", isNamed: false, model: "", system: SYSTEM, note: "", params: {}, messages: [] };
  return { ...empty, ...fields, id: newId(), created: now, changed: now };
}

/** Name it after its first question, unless somebody named it. */
export function entitle(dialogue) {
  if (dialogue.isNamed || !dialogue.messages.length) return;
  dialogue.title = shorten(dialogue.messages[0].text.trim().split(/\s+/).join(" "), TITLE_CHARS) || "New chat";
}

/** An empty dialogue that knows the last turns of this one. */
export function successor(dialogue) {
  const { model, system, params } = dialogue;
  const turns = dialogue.messages.slice(-SUMMARY_TURNS).map((message) => {
    const name = message.role === "user" ? "Human" : "Assistant";
    return `${name}: ${shorten(message.text.trim().replace(/\s+/g, " "), SUMMARY_CHARS)}`;
  });
  const note = `Summary of the conversation so far: ${turns.join(" ")}`;
  return create({ model, system, params, note, title: `${shorten(dialogue.title, 45)} (continued)`, isNamed: true });
}

/** Whether all these words are in the title or a message. */
export function matches(dialogue, words) {
  if (!words.length) return true;
  const texts = [dialogue.title, ...dialogue.messages.map((message) => message.text)].join("\n").toLowerCase();
  return words.every((word) => texts.includes(word.toLowerCase()));
}

/** A file for import. */
export function exported(dialogues) {
  return JSON.stringify({ format: FORMAT, version: 1, chats: dialogues }, null, 2);
}

/** The dialogues of an exported file, under new ids. Throws a TypeError for anything else. */
export function imported(text) {
  const file = JSON.parse(text);
  if (file?.format !== FORMAT || file.version !== 1 || !Array.isArray(file.chats)) throw new TypeError("another format");
  return file.chats.map(checked);
}

function checked(raw) {
  const messages = raw.messages.map(({ role, text, model, how }) => {
    need(role === "user" || role === "assistant");
    need(typeof text === "string");
    return { role, text, ...(typeof model === "string" && { model }), ...(typeof how === "string" && { how }) };
  });
  const words = ["title", "model", "system", "note"].map((name) => {
    need(typeof raw[name] === "string");
    return [name, raw[name]];
  });
  const given = SAMPLING.filter((name) => Number.isFinite(raw.params?.[name]));
  const params = Object.fromEntries(given.map((name) => [name, raw.params[name]]));
  const fields = { ...Object.fromEntries(words), params, messages, isNamed: true };
  const dialogue = create(fields);
  if (Number.isFinite(raw.created)) dialogue.created = raw.created;
  if (Number.isFinite(raw.changed)) dialogue.changed = raw.changed;
  return dialogue;
}

function need(condition) {
  if (!condition) throw new TypeError("a chat is not complete");
}

function shorten(text, chars) {
  const all = Array.from(text);
  return all.length > chars ? `${all.slice(0, chars - 1).join("")}…` : text;
}
