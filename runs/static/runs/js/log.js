// The progress log of a run: everything that it and the runs below it do, grouped by run.
//
// log_group (one run) has a log_timeline (its lines in order), log_live (calls in flight),
// log_progress and log_stop; log_line and log_call say an event in words, log_text contains foreign
// text, log_scroll follows the end, log_slices keeps the page quick.
import { h } from "./dom.js";
import { instant } from "./format.js";
import { Group } from "./log_group.js";
import { FollowEnd } from "./log_scroll.js";
import { Slices } from "./log_slices.js";
import { unfold } from "./log_text.js";

export class LogView {
  #options;
  #groups = new Map(); // run -> Group
  #slices;
  #scroll;
  #lineCount = 0; // since the last slice

  /**
   * Show the log of the run `rootId` in `element`. `mayStop`: the reader may stop its sub-agents, by
   * `stopChild(id)`, which throws RequestFailed. `addressOf(id)` is the page of a run.
   */
  constructor(element, { rootId, mayStop, stopChild, addressOf }) {
    this.#options = { rootId, mayStop, stopChild, addressOf };
    const content = h("div", { class: "log-content" });
    // Screen readers can't read hundreds of lines a second. The page announces the status.
    const box = h("div", {
      class: "log-box", role: "log", "aria-live": "off", "aria-label": "Progress log", tabindex: "0",
      "aria-busy": "true", // until it shows what the run has done so far
    }, content);
    element.classList.add("log");
    element.replaceChildren(box);
    element.addEventListener("click", (event) => this.#clicked(event));
    element.addEventListener("pointerover", ({ target }) => {
      if (target.matches("time:not([title])")) target.title = instant(target.dateTime, "full");
    });
    this.#scroll = new FollowEnd(element, box, content);
    this.#slices = new Slices((frame) => this.#take(frame), (isLast) => {
      this.#scroll.added(this.#lineCount);
      this.#lineCount = 0;
      if (isLast) box.removeAttribute("aria-busy");
    });
    content.append(this.#group(rootId).element);
  }

  /** Show frames of the feed: any order of runs, each run's events in order. */
  apply(frames) {
    this.#slices.add(frames);
  }

  /** Forget streamed text: the feed is open again, and sends it again from its start. */
  reconnected() {
    this.#slices.remove((frame) => frame.type === "text");
    for (const group of this.#groups.values()) group.live.forgetText();
  }

  #take(frame) {
    switch (frame.type) {
      case "run":
      case "end":
        this.#snapshot(frame.run, frame.words);
        break;
      case "trace":
        if (this.#group(frame.event.run).event(frame.event)) this.#lineCount += 1;
        break;
      case "activity":
        this.#group(frame.run).activity(frame);
        break;
      case "text":
        this.#group(frame.run).write(frame.call, frame.text);
        break;
    }
  }

  #snapshot(run, words) {
    const group = this.#group(run.id);
    group.update(run, words);
    const parent = this.#groups.get(run.parent);
    if (!group.isPlaced) parent?.addChild(group);
    else if (run.id !== this.#options.rootId) parent?.showLive();
  }

  #group(id) {
    const known = this.#groups.get(id);
    if (known) return known;
    const { rootId, ...options } = this.#options;
    const group = new Group(id, { isRoot: id === rootId, ...options });
    this.#groups.set(id, group);
    // Groups of its children may have come first.
    for (const child of this.#groups.values()) {
      if (!child.isPlaced && child.parent === id) group.addChild(child);
    }
    return group;
  }

  /** One listener for all buttons of all lines. */
  #clicked(event) {
    const button = event.target.closest("[data-action]");
    if (!button) {
      if (event.target.closest("summary")) requestAnimationFrame(() => this.#scroll.stay());
      return;
    }
    const group = () => this.#groups.get(button.closest(".group").dataset.run);
    if (button.dataset.action === "unfold") unfold(button);
    if (button.dataset.action === "fold") group().toggle();
    if (button.dataset.action === "stop") group().stop.ask();
    this.#scroll.stay();
  }
}
