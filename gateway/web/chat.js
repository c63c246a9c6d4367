// One chat: its dialogue, the answer under way, and what becomes of both.

import { entitle, newId } from "./dialogue.js";
import { Exchange } from "./exchange.js";
import { Line } from "./line.js";
import { cutStop, promptOf, withoutStopBegin } from "./prompt.js";
import { Speed } from "./speed.js";
import { tell } from "./trouble.js";

const SAVE_MS = 250;

/**
 * Tells its listener what changed: "messages" (which there are), "text" (of the last one), "state"; and "ended".
 *
 * state: {phase: "idle" | "waiting" | "writing" | "lost", ahead, attempt (0: offline), trouble}. speed: tokens per second, or 0.
 */
export class Chat {
  #store;
  #models;
  #exchange = new Exchange(newId);
  #line = new Line(this.#exchange, (news) => this.#hear(news));
  #listener = () => {};
  #before = "";
  #saving = 0;
  #speed = new Speed();
  #waitsSince = 0;
  #endedAt = 0;

  constructor(dialogue, store, models) {
    this.dialogue = dialogue;
    this.#store = store;
    this.#models = models;
    this.state = { phase: "idle" };
  }

  /** Who shows the chat; null: nobody. */
  listen(listener) {
    this.#listener = listener ?? (() => {});
  }

  get isBusy() {
    return this.state.phase !== "idle";
  }

  get speed() {
    return this.#speed.at(this.isBusy ? performance.now() : this.#endedAt);
  }

  get model() {
    return this.#models.find(this.dialogue.model);
  }

  /** The model that writes the last answer, which may be another one than is chosen for the next. */
  get writer() {
    return this.#models.find(this.dialogue.messages.at(-1)?.model);
  }

  /** Whether nobody serves the writer, as far as is known since the answer is waited for. */
  get isUnserved() {
    return !this.writer.live_workers && this.#models.askedAt >= this.#waitsSince;
  }

  /** The last answer as it may be shown: without a stop sequence, or the beginning of one. */
  get shown() {
    const text = this.dialogue.messages.at(-1)?.text ?? "";
    return this.isBusy ? withoutStopBegin(text, this.writer.chat) : text;
  }

  /** Ask something. */
  ask(text) {
    if (this.dialogue.messages.at(-1)?.role === "assistant" && !this.dialogue.messages.at(-1).text) {
      this.dialogue.messages.pop(); // it failed
    }
    this.dialogue.messages.push({ role: "user", text });
    this.#answer();
  }

  /** Ask the question at `index` in other words, and forget what followed. */
  edit(index, text) {
    this.dialogue.messages.splice(index);
    this.ask(text);
  }

  /** Have the answer at `index` written anew, and forget what followed. */
  regenerate(index) {
    this.dialogue.messages.splice(index);
    this.#answer();
  }

  /** Have the last answer gone on with; after an error: try again. */
  goOn() {
    if (this.dialogue.messages.at(-1)?.role === "assistant") this.#begin(this.#task());
    else this.#answer();
  }

  /** Put back messages that were forgotten. */
  putBack(messages) {
    this.leave();
    this.dialogue.messages = messages;
    this.#set({ phase: "idle" });
    this.#listener("messages");
    this.save();
  }

  /** End the answer under way. */
  stop() {
    this.#line.perform(this.#exchange.stop());
  }

  /** Drop the answer under way without a word. It can be gone on with. */
  leave() {
    if (this.isBusy) this.dialogue.messages.at(-1).how = "cancelled";
    this.#line.perform(this.#exchange.leave());
    this.#set({ phase: "idle" });
  }

  /** Take over what another page made of the dialogue; but not its messages while an answer is being written here. */
  adopt(dialogue) {
    const { messages } = this.dialogue;
    const isAnother = !this.isBusy && JSON.stringify(messages) !== JSON.stringify(dialogue.messages);
    Object.assign(this.dialogue, dialogue, isAnother ? {} : { messages });
    if (isAnother) {
      this.#line.perform(this.#exchange.part());
      this.#set({ phase: "idle" });
    }
    this.#listener("messages");
  }

  /** Go on with an answer that was under way when the page was left. */
  resume({ task, before, text, cursor }) {
    this.dialogue.messages.at(-1).text = before + text;
    if (!cursor) {
      this.#begin({ ...task, prompt: task.prompt + text }); // it was between two sessions
      return;
    }
    this.#before = before;
    this.#speed.begin(true);
    this.#set({ phase: "waiting" });
    this.#line.perform(this.#exchange.restore(task, { ...cursor, text }));
  }

  /** Keep the dialogue as it is now. */
  async save() {
    clearTimeout(this.#saving);
    this.#saving = 0;
    await this.#store.save(this.dialogue, this.#draft());
  }

  /** Keep how far the answer is, at once. */
  saveDraft() {
    clearTimeout(this.#saving);
    this.#saving = 0;
    const draft = this.#draft();
    if (draft) this.#store.saveDraft(this.dialogue.id, draft);
  }

  #answer() {
    this.dialogue.messages.push({ role: "assistant", text: "", model: this.model.key });
    entitle(this.dialogue);
    this.#begin(this.#task());
  }

  #task() {
    const { chat, key } = this.model;
    const params = { ...chat.generation_params, ...this.dialogue.params };
    return { model: key, chat, params, prompt: promptOf(this.dialogue, chat), longest: this.#models.longestPrompt };
  }

  #begin(task) {
    const last = this.dialogue.messages.at(-1);
    this.#before = last.text;
    last.model = task.model;
    delete last.how;
    this.#speed.begin();
    this.dialogue.changed = Date.now();
    this.#set({ phase: "waiting" });
    this.#listener("messages");
    this.#line.perform(this.#exchange.ask(task));
    this.save();
  }

  /** What resume() needs: text and cursor belong together, and the task is what was asked, whatever was set since. */
  #draft() {
    if (!this.isBusy) return null;
    const text = this.dialogue.messages.at(-1).text.slice(this.#before.length);
    return { task: this.#exchange.task, before: this.#before, text, cursor: this.#exchange.cursor() };
  }

  #hear(news) {
    if (news.tell === "text") this.#write(news);
    else if (news.tell === "asked") this.saveDraft();
    else if (news.tell === "queued") this.#queue(news.ahead);
    else if (news.tell === "lost") this.#set({ phase: "lost", attempt: news.attempt });
    else if (news.tell === "back") this.#comeBack();
    else if (news.tell === "ended") this.#finish(news.how);
    else this.#finish("failed", tell(news.kind, news.detail));
  }

  /** Word of an answer that is waited for; of one that is being written it says that it is still alive. */
  #queue(ahead) {
    if (ahead || this.state.phase !== "writing") this.#set({ phase: "waiting", ahead });
  }

  #comeBack() {
    this.#speed.begin(true);
    this.#set({ phase: "waiting" });
  }

  #write({ text, tokens }) {
    this.#speed.add(tokens, performance.now());
    this.dialogue.messages.at(-1).text += text;
    if (this.state.phase !== "writing") this.#set({ phase: "writing" });
    this.#listener("text");
    this.#saving ||= setTimeout(() => this.saveDraft(), SAVE_MS);
  }

  #finish(how, trouble) {
    const last = this.dialogue.messages.at(-1);
    last.text = cutStop(last.text, this.writer.chat).text;
    last.how = how;
    this.dialogue.changed = Date.now();
    this.#endedAt = performance.now();
    this.#set({ phase: "idle", trouble });
    this.#listener("ended");
    this.#listener("messages");
    this.save();
  }

  #set(state) {
    if (state.phase === "waiting" && this.state.phase !== "waiting") this.#waitsSince = performance.now();
    this.state = state;
    this.#listener("state");
  }
}
