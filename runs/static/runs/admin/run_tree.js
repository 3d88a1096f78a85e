// The tree of a run: who called whom, drawn by the server whenever there is something new in it.
import { Panel } from "../js/panels.js";

const COLLECT_MILLISECONDS = 200; // for all that comes at once
const ASK_MILLISECONDS = 5000; // the feed tells of this run and those below; all others are asked for
const ALIVE = ["queued", "running", "stopping"].map((status) => `[data-status=${status}]`).join();

export class TreePanel extends Panel {
  #element;
  #known = new Map(); // run -> its status, by the latest frames
  #timer = 0;

  constructor(element, address) {
    super(element, address);
    this.#element = element;
    setInterval(() => this.#isWatched() && this.#draw(), ASK_MILLISECONDS);
  }

  /** Take in what a feed has brought. */
  apply(frames) {
    for (const { type, run } of frames) {
      if (type !== "run" && type !== "end") continue;
      if (this.#known.get(run.id) === run.status) continue;
      this.#known.set(run.id, run.status);
      this.#draw();
    }
  }

  #isWatched() {
    return document.visibilityState === "visible" && this.#element.querySelector(ALIVE);
  }

  #draw() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.load();
    }, COLLECT_MILLISECONDS);
  }
}
