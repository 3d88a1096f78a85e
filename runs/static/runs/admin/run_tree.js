// The tree of a run: the server draws it again after each change.
import { Panel } from "../js/panels.js";

const COLLECT_MILLISECONDS = 200; // changes in quick succession are drawn once
const POLL_MILLISECONDS = 5000; // the feed covers this run and those below, not the rest of the tree
const ACTIVE = ["queued", "running", "stopping"].map((status) => `[data-status=${status}]`).join();

export class TreePanel extends Panel {
  #element;
  #known = new Map(); // run -> status in the latest frame
  #timer = 0;

  constructor(element, address) {
    super(element, address);
    this.#element = element;
    setInterval(() => this.#isWatched() && this.#draw(), POLL_MILLISECONDS);
  }

  /** Redraw if a frame of the feed changes the status of a run. */
  apply(frames) {
    for (const { type, run } of frames) {
      if (type !== "run" && type !== "end") continue;
      if (this.#known.get(run.id) === run.status) continue;
      this.#known.set(run.id, run.status);
      this.#draw();
    }
  }

  #isWatched() {
    return document.visibilityState === "visible" && this.#element.querySelector(ACTIVE);
  }

  #draw() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.load();
    }, COLLECT_MILLISECONDS);
  }
}
