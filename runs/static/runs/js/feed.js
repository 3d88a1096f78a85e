// Follow a live feed: one WebSocket that reconnects by itself.
//
//   const feed = follow("/ws/runs/<id>?view=page&tree=1", { overHttp: "/runs/<id>", onFrames, onState });
//   feed.close();
//
// overHttp: the address of the same thing, which says why a connection was refused.
//
// onFrames(frames): a batch, in order. Each trace event comes once, however often the connection
// breaks. After a break snapshots come again, and streamed text from its start: drop the old text
// when the state becomes "open".
//
// onState({ name, retryInSeconds? }), whenever it changes:
//   "connecting"  for the first time
//   "open"        connected, each time
//   "lost"        it broke; the next try is in retryInSeconds (0: now)
//   "refused"     final: signed out, or the right is lost
//   "gone"        final: the run does not exist any more
//   "ended"       final: the server has sent everything
//
// A list's feed has no cursor: load the list again after "lost".
import { get } from "./http.js";

const PAUSES = [0.5, 1, 2, 5]; // seconds before each next try, the last one again and again
const SILENCE = 25; // seconds; the server says something every ten
const LONGEST_CURSOR = 4000; // characters; servers take addresses of eight thousand
const RIGHT_LOST = 4403;
const RUN_GONE = 4404;

/** Start to follow. After close() of the answer, neither function is called. */
export function follow(address, { overHttp, onFrames, onState = () => {} }) {
  const feed = new Feed(address, overHttp, onFrames, onState);
  feed.start();
  return { close: () => feed.close() };
}

class Feed {
  #address;
  #overHttp;
  #onFrames;
  #onState;
  #socket = null;
  #cursor = "";
  #lastSeq = new Map(); // run -> number of its last event that was given
  #failures = 0; // since the last message
  #retryTimer = 0;
  #silenceTimer = 0;
  #receivedAt = 0;
  #attempt = 0; // what an answer belongs to that comes when a new try is under way
  #isOver = false;
  #wake = new AbortController(); // takes the window's listeners away

  constructor(address, overHttp, onFrames, onState) {
    this.#address = address;
    this.#overHttp = overHttp;
    this.#onFrames = onFrames;
    this.#onState = onState;
  }

  start() {
    const { signal } = this.#wake;
    // The network is back, perhaps another one, on which the old connection is dead unnoticed.
    window.addEventListener("online", () => this.#connect(), { signal });
    document.addEventListener("visibilitychange", () => this.#wakeUp(), { signal });
    this.#silenceTimer = setInterval(() => this.#breakOff(), 250);
    this.#onState({ name: "connecting" });
    this.#connect();
  }

  close() {
    this.#isOver = true;
    this.#wake.abort();
    clearInterval(this.#silenceTimer);
    this.#drop();
  }

  #finish(name) {
    if (this.#isOver) return;
    this.close();
    this.#onState({ name });
  }

  /** Drop the connection, or the pause before the next one. */
  #drop() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    this.#attempt += 1;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #connect() {
    this.#drop();
    const socket = new WebSocket(this.#whole());
    this.#socket = socket;
    let wasOpen = false;
    // Ignore late messages of an abandoned socket: its successor starts at the cursor.
    const ifCurrent = (act) => (event) => {
      if (this.#socket === socket) act(event);
    };
    socket.onopen = ifCurrent(() => {
      wasOpen = true;
      this.#onState({ name: "open" });
    });
    socket.onmessage = ifCurrent((event) => this.#take(JSON.parse(event.data)));
    socket.onclose = ifCurrent((event) => this.#closed(event.code, wasOpen));
    this.#receivedAt = performance.now();
  }

  #whole() {
    const url = new URL(this.#address, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    // The cursor of many hundred runs is too long for an address. Then the server sends everything
    // again, and #isNew drops the known events.
    if (this.#cursor && this.#cursor.length <= LONGEST_CURSOR) url.searchParams.set("cursor", this.#cursor);
    return url;
  }

  #take(message) {
    this.#failures = 0;
    this.#receivedAt = performance.now();
    if (message.type === "heartbeat") return;
    if (message.cursor) this.#cursor = message.cursor;
    const frames = (message.type === "frames" ? message.frames : [message])
      .filter((frame) => this.#isNew(frame));
    if (frames.length) this.#onFrames(frames);
    if (frames.at(-1)?.type === "end") this.#finish("ended");
  }

  #isNew(frame) {
    if (frame.type !== "trace") return true;
    const { run, seq } = frame.event;
    if (seq <= (this.#lastSeq.get(run) ?? 0)) return false;
    this.#lastSeq.set(run, seq);
    return true;
  }

  #closed(code, wasOpen) {
    this.#drop();
    if (code === RIGHT_LOST) this.#finish("refused");
    else if (code === RUN_GONE) this.#finish("gone");
    else if (wasOpen) this.#retryLater();
    else this.#askWhy();
  }

  /** A refused handshake doesn't say why: a server that restarts, or a right that is lost. */
  async #askWhy() {
    const attempt = this.#attempt;
    const problem = await get(this.#overHttp).then(() => null, (error) => error);
    if (attempt !== this.#attempt) return;
    if (problem?.status === 401 || problem?.status === 403) this.#finish("refused");
    else if (problem?.status === 404) this.#finish("gone");
    else this.#retryLater();
  }

  #retryLater() {
    const pause = PAUSES[Math.min(this.#failures, PAUSES.length - 1)];
    this.#failures += 1;
    // A server that went down broke all connections: don't reconnect all at once.
    const retryInSeconds = pause * (0.75 + Math.random() / 2);
    this.#retryTimer = setTimeout(() => {
      this.#onState({ name: "lost", retryInSeconds: 0 });
      if (!this.#isOver) this.#connect();
    }, retryInSeconds * 1000);
    this.#onState({ name: "lost", retryInSeconds });
  }

  /** The page is visible again: it and its timers may have slept. */
  #wakeUp() {
    if (document.visibilityState !== "visible") return;
    if (this.#retryTimer || this.#isSilent()) this.#connect();
  }

  #isSilent() {
    return performance.now() - this.#receivedAt > SILENCE * 1000;
  }

  #breakOff() {
    if (!this.#socket || !this.#isSilent()) return;
    this.#drop();
    this.#retryLater();
  }
}
