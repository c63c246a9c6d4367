// Puts the page together: which chat is open, and what each part tells the others.

import { Announcer } from "./announcer.js";
import { forgetKey, hasKey } from "./api-key.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { DialogueView } from "./dialogue-view.js";
import { create, exported, imported, successor } from "./dialogue.js";
import { isComposing } from "./input-method.js";
import { iconOf, make } from "./make.js";
import { ModelPicker } from "./model-picker.js";
import { Models } from "./models.js";
import { Notice } from "./notice.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { bindTheme } from "./theme-switch.js";
import { hideToast, toast } from "./toast.js";

const SPEED_MS = 500;
const $ = (selector) => document.querySelector(selector);

class App {
  #models = new Models();
  #store;
  #chats = new Map();
  #chat;
  #hasComplained = false;
  #unseen = new Set(); // ids of chats with an answer that nobody has seen
  #unsent = new Map(); // by the id of a chat; "" for one that is not kept
  #announcer = new Announcer($("#announcer"));
  #view = new DialogueView($("#scroller"), $("#messages"), $("#latest"), this.#announcer, {
    edit: (index, text) => this.#replace(() => this.#chat.edit(index, text)),
    regenerate: (index) => this.#replace(() => this.#chat.regenerate(index)),
    nameOf: (model) => this.#models.nameOf(model),
  });
  #composer = new Composer($("#composer"), { send: (text) => this.#ask(text), stop: () => this.#chat.stop() });
  #notice = new Notice($("#notice"), this.#announcer, { goOn: () => this.#goOn(), succeed: () => this.#succeed() });
  #picker = new ModelPicker(this.#models, $("#model"), $("#model-links"), (model) => this.#change({ model }));
  #settings = new Settings($("#settings"), (fields) => this.#change(fields));
  #sidebar = new Sidebar($("#sidebar"), $("#open-sidebar"), {
    rename: (dialogue, title) => this.#rename(dialogue, title),
    remove: (dialogue) => this.#remove(dialogue),
    markOf: ({ id }) => this.#markOf(id),
  });

  async start() {
    this.#decorate();
    this.#store = await Store.open();
    await this.#models.watch();
    const { chats, drafts } = await this.#store.all();
    for (const dialogue of chats) this.#keep(dialogue);
    this.#models.listen(() => this.#showModel());
    $("#forget-key").hidden = !hasKey();
    this.#listen();
    this.#store.listen((news) => this.#adopt(news), () => this.#complain());
    for (const { id, draft } of drafts) this.#chats.get(id)?.resume(draft);
    this.#open();
    document.documentElement.dataset.ready = "";
  }

  #keep(dialogue) {
    const chat = new Chat(dialogue, this.#store, this.#models);
    this.#chats.set(dialogue.id, chat);
    chat.listen((what) => this.#hear(chat, what));
    return chat;
  }

  /** Tell once that nothing more is kept. */
  #complain() {
    if (this.#hasComplained) return;
    this.#hasComplained = true;
    toast("This browser has no room left for your chats: what follows is lost when you leave. You can export them.");
  }

  /** Another page of this browser kept the chat, or forgot it. */
  async #adopt({ id, isGone }) {
    if (isGone) return this.#forget(id);
    const dialogue = await this.#store.find(id);
    if (!dialogue) return; // it is gone since
    const chat = this.#chats.get(id) ?? this.#keep(dialogue);
    chat.adopt(dialogue);
    if (chat === this.#chat) this.#showModel();
  }

  /** At once: an answer that ended later would be kept, and the chat with it. */
  #forget(id) {
    const chat = this.#chats.get(id);
    if (!chat) return;
    chat.leave();
    this.#chats.delete(id);
    if (chat === this.#chat) this.#renew();
    this.#list();
  }

  /** Open the chat that the address names, or an empty one. */
  #open() {
    const isFirst = !this.#chat; // then what is in the composer was typed while the page began
    if (!isFirst) this.#unsent.set(this.#keptId, this.#composer.text);
    const named = this.#chats.get(location.hash.slice(1));
    this.#chat = named ?? this.#keep(create({ model: this.#chat?.dialogue.model ?? "" }));
    if (!named) this.#chats.delete(this.#chat.dialogue.id); // it is kept when something is asked
    if (!isFirst) this.#composer.text = this.#unsent.get(this.#keptId) ?? "";
    this.#unsent.delete(this.#keptId);
    this.#unseen.delete(this.#chat.dialogue.id);
    this.#view.open(this.#chat);
    this.#showAll();
    this.#sidebar.close();
    if (matchMedia("(hover: hover)").matches) this.#composer.focus(); // on a phone it would open the keyboard
  }

  /** The id of the open chat; "" where it is not kept. */
  get #keptId() {
    const id = this.#chat?.dialogue.id;
    return this.#chats.has(id) ? id : "";
  }

  /** What is to be known of a chat before it is opened. */
  #markOf(id) {
    if (this.#chats.get(id)?.isBusy) return "Is being written";
    return this.#unseen.has(id) ? "Has a new answer" : "";
  }

  #hear(chat, what) {
    if (what === "ended" && chat !== this.#chat) this.#unseen.add(chat.dialogue.id);
    if (what === "messages") this.#list();
    if (what === "state" && chat.state.phase === "waiting") this.#models.refresh();
    if (chat !== this.#chat) return;
    if (what === "messages") this.#showMessages();
    if (what === "text") this.#view.grow();
    if (what !== "text") this.#showState();
  }

  #ask(text) {
    hideToast(); // an Undo of what was before would take back this as well
    const { dialogue } = this.#chat;
    const isNew = !this.#chats.has(dialogue.id);
    this.#chats.set(dialogue.id, this.#chat);
    this.#chat.ask(text);
    if (isNew) history.pushState(null, "", `#${dialogue.id}`);
    this.#list();
  }

  /** Do what forgets messages, and offer to have them back. */
  #replace(change) {
    const chat = this.#chat;
    const before = structuredClone(chat.dialogue.messages);
    change();
    this.#composer.focus();
    toast("The messages after it were replaced.", "Undo", () => chat.putBack(before));
  }

  #goOn() {
    this.#chat.goOn();
    this.#composer.focus();
  }

  #succeed() {
    const chat = this.#keep(successor(this.#chat.dialogue));
    chat.save();
    location.hash = chat.dialogue.id;
  }

  #change(fields) {
    Object.assign(this.#chat.dialogue, fields);
    if (this.#chats.has(this.#chat.dialogue.id)) this.#chat.save();
    this.#showModel();
  }

  #rename(dialogue, title) {
    Object.assign(dialogue, { title, isNamed: true });
    this.#chats.get(dialogue.id).save();
    this.#showAll();
  }

  #remove(dialogue) {
    const chat = this.#chats.get(dialogue.id);
    this.#store.remove(dialogue.id); // first, so that other pages know before they hear that the answer is over
    this.#forget(dialogue.id);
    toast("The chat is deleted.", "Undo", () => {
      this.#chats.set(dialogue.id, chat);
      chat.save();
      location.hash = dialogue.id;
      this.#list();
    });
  }

  #renew() {
    history.pushState(null, "", location.pathname);
    this.#open();
  }

  #showAll() {
    this.#list();
    this.#showMessages();
    this.#showModel();
    this.#showState();
  }

  #list() {
    this.#sidebar.show(Array.from(this.#chats.values(), (chat) => chat.dialogue), this.#chat?.dialogue.id);
  }

  #showMessages() {
    const { title, note, messages } = this.#chat.dialogue;
    $("#welcome").hidden = messages.length > 0;
    $("#title").textContent = title;
    document.title = messages.length ? `${title} · Corolla` : "Corolla";
    $("#note").hidden = !note;
    $("#note p").textContent = note;
    this.#view.refresh();
  }

  #showModel() {
    this.#picker.show(this.#chat.model);
    this.#notice.show(this.#chat);
  }

  #showState() {
    this.#composer.isBusy = this.#chat.isBusy;
    this.#notice.show(this.#chat);
  }

  #listen() {
    addEventListener("popstate", () => this.#open()); // also after a click on a chat, which changes but the hash
    $(".skip").onclick = (event) => {
      event.preventDefault(); // the hash names the chat
      this.#composer.focus();
    };
    addEventListener("pagehide", () => this.#chats.forEach((chat) => chat.saveDraft()));
    addEventListener("keydown", (event) => this.#key(event));
    setInterval(() => this.#chat.isBusy && this.#notice.show(this.#chat), SPEED_MS);
    $("#new").onclick = () => this.#renew();
    $("#open-settings").onclick = () => this.#settings.open(this.#chat.dialogue, this.#chat.model.chat.generation_params);
    $("main").addEventListener("click", (event) => event.target.closest("#open-sidebar") || this.#sidebar.close());
    $("#export").onclick = () => this.#export();
    $("#import").onclick = () => $("#file").click();
    $("#file").onchange = () => this.#import();
    $("#forget-key").onclick = () => this.#forgetKey();
    bindTheme($("#theme"));
  }

  #forgetKey() {
    forgetKey();
    location.reload();
  }

  #key(event) {
    if (event.key === "Escape" && !isComposing(event) && !$("dialog[open]")) this.#escape(event);
    if (event.key.toLowerCase() === "o" && event.ctrlKey && event.shiftKey) {
      event.preventDefault();
      this.#renew();
    }
  }

  #escape(event) {
    if (event.target.type === "search" && event.target.value) return; // that is what the browser clears
    if (this.#sidebar.isOpen) this.#sidebar.close();
    else this.#chat.stop();
  }

  #export() {
    const file = new Blob([exported(Array.from(this.#chats.values(), (chat) => chat.dialogue))], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "corolla-chats.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  async #import() {
    const [file] = $("#file").files;
    $("#file").value = "";
    try {
      const dialogues = imported(await file.text());
      const areKept = await Promise.all(dialogues.map((dialogue) => this.#store.save(dialogue)));
      for (const dialogue of dialogues) this.#keep(dialogue);
      this.#list();
      if (areKept.every(Boolean)) toast(`${dialogues.length} ${dialogues.length === 1 ? "chat is" : "chats are"} imported.`);
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
      toast("This file holds no exported chats.");
    }
  }

  #decorate() {
    const icons = { "close-sidebar": "close", "open-sidebar": "menu", "open-settings": "settings", latest: "down" };
    for (const [id, icon] of Object.entries(icons)) $(`#${id}`).append(iconOf(icon));
    $("#new").prepend(iconOf("plus"));
    this.#composer.isBusy = false;
  }
}

try {
  await new App().start();
} catch (error) {
  const text = "The page could not begin: the gateway does not answer, or this browser is too old for it or keeps nothing. ";
  const again = make("a", { href: location.href, textContent: "Try again", onclick: () => location.reload() });
  $("#notice").replaceChildren(make("div", { className: "trouble", role: "alert" }, text, again));
  throw error;
}
