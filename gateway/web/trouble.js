// What can go wrong, told from the words of the API's errors, and what people are told about it.

const WORDS = [
  [/Maximum length exceeded/, "too-long"],
  [/`inputs` has \d+ characters|^ValueError: A message may have at most/, "too-large"],
  [/attention cache is full/, "capacity"],
  [/Session .*(expired|does not exist)/, "expired"],
  [/cannot go on exactly/, "interrupted"],
  [/You have \d+ requests waiting/, "waiting-limit"],
  [/You have used up what you may ask for/, "rate-limit"],
  [/There are \d+ requests waiting|Too many opened inference sessions/, "busy"],
  [/^TimeoutError: No message came/, "idle"],
  [/^TimeoutError/, "late"],
  [/^ConnectionError/, "unreachable"],
  [/^KeyError/, "no-model"],
];

/** The kind of an error, from the text that the API gives it. */
export function kindOf(traceback) {
  return WORDS.find(([words]) => words.test(traceback))?.[1] ?? "other";
}

const TEXTS = {
  "too-long": [
    "This chat is as long as the model can remember.",
    "You can go on in a new chat, which begins with a summary of the last turns.",
  ],
  capacity: [
    "The swarm is out of capacity.",
    "Its servers have no memory left for another chat. That often changes within a minute.",
  ],
  "waiting-limit": ["You have many questions waiting already.", "Let some of them be answered, then try again."],
  "rate-limit": ["You have asked for as much as you may within a minute.", "Please try again in a minute."],
  busy: ["Too many people are asking at the moment.", "Please try again in a minute."],
  unserved: ["Nobody took your question in time.", "You can ask it again; it is kept."],
  late: ["The answer took too long.", "What was written so far is kept; you can let the model go on."],
  unreachable: ["The swarm cannot be reached at the moment.", "This has been tried several times. Please try again later."],
  "no-model": ["This model is not served here any more.", "Choose another one above, and try again."],
  connection: [
    "The connection is lost.",
    "This has been tried several times. What was written so far is kept; try again once you are online.",
  ],
  other: ["The answer could not be written.", "Please try again."],
};

/** A title and a text for people. detail: the API's own text, shown where nothing better is known. */
export function tell(kind, detail = "") {
  const [title, text] = TEXTS[kind] ?? TEXTS.other;
  return { kind, title, text: kind === "other" && detail ? detail.replace(/^\w+: /, "") : text };
}
