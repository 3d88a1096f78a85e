// What the page knows of its run: only what the server has said, last of all through the feed.

const ALIVE = new Set(["queued", "running", "stopping"]);

export class RunState {
  #listeners = [];
  #revision = 0; // grows with all that the feed says of the run

  /** `run` and `words` as the server sends them; `progress` is the latest {seq, done, total, message}. */
  constructor({ run, words, progress }) {
    this.run = run;
    this.words = words;
    this.progress = progress;
  }

  get status() {
    return this.run.status;
  }

  get isAlive() {
    return ALIVE.has(this.run.status);
  }

  get isStopping() {
    return this.run.status === "stopping";
  }

  /** Call `listener(state)` now, and after each change. */
  watch(listener) {
    this.#listeners.push(listener);
    listener(this);
  }

  /** Take in what a feed has brought; of other runs of the tree nothing. */
  apply(frames) {
    const before = this.#revision;
    for (const frame of frames) this.#take(frame);
    if (this.#revision !== before) this.#tell();
  }

  /** Ask the server how things are. What the feed says meanwhile is newer than the answer. */
  async refresh(ask) {
    const before = this.#revision;
    const { run, words } = await ask();
    if (this.#revision !== before) return;
    Object.assign(this, { run, words });
    this.#tell();
  }

  #take(frame) {
    const id = frame.run?.id ?? frame.run ?? frame.event?.run;
    if (id !== this.run.id) return;
    if (frame.type === "run" || frame.type === "end") {
      Object.assign(this, { run: frame.run, words: frame.words });
    } else if (frame.type === "activity") {
      this.words = frame.words ?? this.words;
    } else if (frame.event?.type === "progress" && frame.event.seq > (this.progress?.seq ?? 0)) {
      this.progress = { seq: frame.event.seq, ...frame.event.data };
    } else {
      return;
    }
    this.#revision += 1;
  }

  #tell() {
    for (const listener of this.#listeners) listener(this);
  }
}

/** Return a listener for `watch` that calls `act(state)` whenever `read(state)` is another than before. */
export function whenChanged(read, act) {
  let known;
  let isFirst = true; // how it is at the beginning is no change
  return (now) => {
    const value = read(now);
    const isNews = !isFirst && value !== known;
    known = value;
    isFirst = false;
    if (isNews) act(now);
  };
}
