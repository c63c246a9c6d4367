// Chats and unfinished answers in the browser's IndexedDB.
//
// chats: dialogues by id (see dialogue.js). drafts: what an answer under way needs to go on after a reload, by the same id.

const NAME = "corolla";
const VERSION = 1;

export class Store {
  #database;
  #channel = new BroadcastChannel("corolla-chats");
  #failed = () => {};
  #persisting = null;

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

  /** heard: called with {id, isGone} whenever another page kept or forgot a chat. failed: whenever nothing can be kept. */
  listen(heard, failed) {
    this.#channel.onmessage = ({ data }) => heard(data);
    this.#failed = failed;
  }

  /** {chats, drafts}: all of them; drafts as {id, draft}. */
  async all() {
    const transaction = this.#database.transaction(["chats", "drafts"]);
    const found = ["chats", "drafts"].map((name) => done(transaction.objectStore(name).getAll()));
    const [chats, drafts] = await Promise.all(found);
    return { chats, drafts };
  }

  /** The chat; undefined where there is none. */
  find(id) {
    return done(this.#database.transaction("chats").objectStore("chats").get(id));
  }

  /** Ask the browser, once, not to drop what is kept when it needs room for others. */
  #persist() {
    this.#persisting ??= navigator.storage?.persist?.().catch(() => {});
  }

  /** Keep a chat, and its draft where an answer is under way; one without is finished. Whether that was done. */
  save(chat, draft = null) {
    const isKept = this.#write((chats, drafts) => {
      chats.put(chat);
      if (draft) drafts.put({ id: chat.id, draft });
      else drafts.delete(chat.id);
    });
    // At once, as the page may be left; who reads waits for what is written.
    this.#channel.postMessage({ id: chat.id, isGone: false });
    this.#persist();
    return isKept;
  }

  /** Keep how far the answer under way is. */
  saveDraft(id, draft) {
    return this.#write((_, drafts) => drafts.put({ id, draft }));
  }

  /** Forget a chat. */
  remove(id) {
    this.#write((chats, drafts) => {
      chats.delete(id);
      drafts.delete(id);
    });
    this.#channel.postMessage({ id, isGone: true });
  }

  async #write(change) {
    try {
      await this.#change(change);
      return true;
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      this.#failed(); // there is no room left, or people had the browser forget everything
      return false;
    }
  }

  #change(change) {
    const transaction = this.#database.transaction(["chats", "drafts"], "readwrite");
    change(transaction.objectStore("chats"), transaction.objectStore("drafts"));
    transaction.commit(); // without it a page that is left at once takes back what it wrote
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
