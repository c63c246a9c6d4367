// Performs what an exchange says, over sockets of its own; every socket is heard only while it is the newest.

import { protocols } from "./api-key.js";

/** Close code of a client that means to come back; after 1000 the server would end session and answer. */
const BACK_SOON = 4000;
/** A server that was silent for this long has gone without a word: it tells of an answer every 20 s. */
const SILENCE_MS = 45_000;

export class Line {
  #exchange;
  #tell;
  #socket = null;
  #timer = 0;
  #silence = 0;
  #isWatching = false;

  /** tell: hears the exchange's news. */
  constructor(exchange, tell) {
    this.#exchange = exchange;
    this.#tell = tell;
  }

  /** Do these actions, in order. */
  perform(actions) {
    for (const action of actions) {
      if (action.tell) this.#tell(action);
      else this.#do(action);
    }
  }

  #do(action) {
    clearTimeout(this.#timer);
    if (action.do === "connect") this.#connect();
    else if (action.do === "hangup") this.#hangUp();
    else if (action.do === "part") this.#hangUp(BACK_SOON);
    else if (action.do === "send") this.#socket.send(JSON.stringify(action.frame));
    else this.#timer = setTimeout(() => this.perform(this.#exchange.due()), action.ms);
  }

  #connect() {
    this.#hangUp();
    this.#watch();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/api/v2/generate`, protocols());
    const heard = (take) => (event) => {
      if (socket !== this.#socket) return;
      this.#listen();
      this.perform(take(event));
    };
    socket.onopen = heard(() => this.#exchange.connected());
    socket.onmessage = heard((event) => this.#exchange.received(JSON.parse(event.data)));
    socket.onclose = heard(() => this.#lose());
    this.#socket = socket;
    this.#listen();
  }

  /** Hear of the network, from the first connection on: most chats are only looked at. */
  #watch() {
    if (this.#isWatching) return;
    this.#isWatching = true;
    addEventListener("online", () => this.perform(this.#exchange.online()));
    addEventListener("offline", () => this.#drop());
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#exchange.task && this.#drop(), SILENCE_MS);
  }

  /** Leave the socket as a lost one. */
  #drop() {
    const socket = this.#socket;
    if (!socket) return;
    const actions = this.#lose();
    socket.close(BACK_SOON);
    this.perform(actions);
  }

  #lose() {
    this.#socket = null;
    clearTimeout(this.#silence);
    return this.#exchange.closed(navigator.onLine);
  }

  #hangUp(code = 1000) {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(code);
  }
}
