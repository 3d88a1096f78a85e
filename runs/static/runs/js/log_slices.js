// Work through a queue in slices, so that the page answers between them.

const SLICE = 8; // ms of each frame; the rest is the browser's, for layout and the reader's clicks
const LEAST = 30; // items of each frame, also on a busy processor
const HIDDEN_PAUSE = 500; // ms; a hidden page gets no frames, but its queue must not grow

/** Do `work(item)` for each item, in order; `afterSlice(isLast)` when a slice is done. */
export class Slices {
  #work;
  #afterSlice;
  #queue = [];
  #next = 0; // shifting a long array costs more than the work
  #frame = 0;
  #timer = 0;

  constructor(work, afterSlice) {
    this.#work = work;
    this.#afterSlice = afterSlice;
  }

  add(items) {
    for (const item of items) this.#queue.push(item);
    this.#schedule();
  }

  /** Take items out of the queue. */
  remove(isUnwanted) {
    this.#queue = this.#queue.slice(this.#next).filter((item) => !isUnwanted(item));
    this.#next = 0;
  }

  #schedule() {
    if (this.#frame || this.#next >= this.#queue.length) return;
    this.#frame = requestAnimationFrame(() => this.#run());
    this.#timer = setTimeout(() => this.#run(), HIDDEN_PAUSE);
  }

  #run() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = 0;
    const end = performance.now() + SLICE;
    const least = this.#next + LEAST;
    while (this.#next < this.#queue.length && (this.#next < least || performance.now() < end)) {
      this.#work(this.#queue[this.#next++]);
    }
    if (this.#next >= this.#queue.length) {
      this.#queue = [];
      this.#next = 0;
    }
    this.#afterSlice(this.#queue.length === 0);
    this.#schedule();
  }
}
