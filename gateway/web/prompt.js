// How a dialogue is written down for a model, by the chat settings of GET /api/v1/models.

export const SYSTEM =
  "A chat between a curious human and an artificial intelligence assistant. " +
  "The assistant gives helpful, detailed, and polite answers to the human's questions.";
export const GREETING = "Hi! How can I help you?";

/** The whole dialogue as one prompt. An answer at its end is open: the model goes on with it, or begins it. */
export function promptOf(dialogue, chat) {
  const last = dialogue.messages.at(-1);
  const open = last?.role === "assistant" ? last : null;
  const closed = open ? dialogue.messages.slice(0, -1) : dialogue.messages;
  const opening = [`Assistant: ${GREETING}`];
  const system = [dialogue.system, dialogue.note].filter(Boolean).join(" ");
  if (system) opening.unshift(system);
  const turns = closed.map((message) => turn(message, chat));
  return opening.map((part) => part + chat.sep_token).join("") + turns.join("") + `Assistant:${open ? open.text : ""}`;
}

function turn(message, chat) {
  return message.role === "user" ? `Human: ${message.text}${chat.sep_token}` : `Assistant:${message.text}${end(chat)}`;
}

/** What stands after a complete answer: what the model ends it with, and what separates turns, once where they agree. */
function end(chat) {
  return chat.stop_token.endsWith(chat.sep_token) ? chat.stop_token : chat.stop_token + chat.sep_token;
}

/** The text without a stop sequence at its end, and whether there was one. */
export function cutStop(text, chat) {
  const stop = [chat.stop_token, ...chat.extra_stop_sequences].find((each) => each && text.endsWith(each));
  return stop ? { text: text.slice(0, -stop.length), stopped: true } : { text, stopped: false };
}

/** As much of the text as may be shown while more comes: without what may become a stop sequence. */
export function withoutStopBegin(text, chat) {
  let shown = text.length;
  for (const stop of [chat.stop_token, ...chat.extra_stop_sequences]) {
    for (let length = Math.min(stop.length, text.length); length > 0; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        shown = Math.min(shown, text.length - length);
        break;
      }
    }
  }
  return text.slice(0, shown);
}
