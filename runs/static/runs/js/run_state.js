// What the page knows of its run: the server's latest answer, kept up to date by the feed.

/** Say whether a run with this status is not over. */
export function isActive(status) {
  return ["queued", "running", "stopping"].includes(status);
}

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
    return isActive(this.run.status);
  }

  get isStopping() {
    return this.run.status === "stopping";
  }

  /** Call `listener(state)` now, and after each change. */
  watch(listener) {
    this.#listeners.push(listener);
    listener(this);
  }

  /** Call `act(state)` after each change of `read(state)`. */
  onChange(read, act) {
    let known = read(this);
    this.#listeners.push(() => {
      const value = read(this);
      if (value === known) return;
      known = value;
      act(this);
    });
  }

  /** Take in the frames about this run; the feed also has those of its children. */
  apply(frames) {
    const before = this.#revision;
    for (const frame of frames) this.#take(frame);
    if (this.#revision !== before) this.#notify();
  }

  /** Ask the server. A frame that comes before the answer is newer. */
  async refresh(ask) {
    const before = this.#revision;
    const { run, words } = await ask();
    if (this.#revision !== before) return;
    Object.assign(this, { run, words });
    this.#notify();
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

  #notify() {
    for (const listener of this.#listeners) listener(this);
  }
}
