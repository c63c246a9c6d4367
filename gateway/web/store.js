// Chats and unfinished answers in the browser's IndexedDB.
//
// chats: dialogues by id (see dialogue.js). drafts: what an answer under way needs to go on after a reload, by the same id.

const NAME = "corolla";
const VERSION = 1;

export class Store {
  #database;
  #channel = new BroadcastChannel(NAME);

  constructor(database) {
    this.#database = database;
  }

  /** The store of this browser. Rejects where the browser keeps nothing. */
  static async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("chats", { keyPath: "id" });
      request.result.createObjectStore("drafts", { keyPath: "id" });
    };
    return new Store(await done(request));
  }

  /** Call `heard` with the id of a chat whenever another page kept or forgot it. */
  listen(heard) {
    this.#channel.onmessage = ({ data }) => heard(data);
  }

  /** All chats. */
  all() {
    return done(this.#database.transaction("chats").objectStore("chats").getAll());
  }

  /** {chat, draft}; undefined where there is none. */
  async find(id) {
    const transaction = this.#database.transaction(["chats", "drafts"]);
    const found = ["chats", "drafts"].map((name) => done(transaction.objectStore(name).get(id)));
    const [chat, kept] = await Promise.all(found);
    return { chat, draft: kept?.draft };
  }

  /** Keep a chat, and its draft where an answer is under way; one without is finished. */
  async save(chat, draft = null) {
    await this.#write((chats, drafts) => {
      chats.put(chat);
      if (draft) drafts.put({ id: chat.id, draft });
      else drafts.delete(chat.id);
    });
    this.#channel.postMessage(chat.id);
  }

  /** Keep how far the answer under way is. */
  saveDraft(id, draft) {
    return this.#write((_, drafts) => drafts.put({ id, draft }));
  }

  /** Forget a chat. */
  async remove(id) {
    await this.#write((chats, drafts) => {
      chats.delete(id);
      drafts.delete(id);
    });
    this.#channel.postMessage(id);
  }

  #write(change) {
    const transaction = this.#database.transaction(["chats", "drafts"], "readwrite");
    change(transaction.objectStore("chats"), transaction.objectStore("drafts"));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
