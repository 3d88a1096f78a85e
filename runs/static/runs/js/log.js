// The progress log of a run: everything that it and the runs below it do, grouped by run.
//
//   const log = new LogView(document.getElementById("log"), { rootId, mayStop, stopChild });
//   log.apply(frames);     // of the feed, see feed.js: any order of runs, each run's events in order
//   log.reconnected();     // whenever the feed is open again: streamed text comes from its beginning
//
// rootId: the run whose page this is. mayStop: whether the reader may stop its sub-agents;
// stopChild(runId): asks for that, and throws RequestFailed. addressOf(runId): the page of one.
//
// The log scrolls in a box of its own (--log-height, see log.css): the page around it stays where
// it is however much is logged. How the rest is split: log_group (one run) has a log_timeline (its
// lines in order), log_live (calls in flight), log_progress and log_stop; log_line and log_call say
// an event in words, log_text tames foreign text, log_scroll follows the end, log_slices keeps the
// page quick.
import { h } from "./dom.js";
import { instant } from "./format.js";
import { Group } from "./log_group.js";
import { FollowEnd } from "./log_scroll.js";
import { Slices } from "./log_slices.js";
import { unfold } from "./log_text.js";

const pageOf = (id) => `/app/runs/${id}/`;

export class LogView {
  #options;
  #groups = new Map(); // run -> Group
  #homeless = new Map(); // parent run -> groups that wait for it
  #slices;
  #scroll;
  #lineCount = 0; // since the last slice

  constructor(element, { rootId, mayStop = false, stopChild = async () => {}, addressOf = pageOf }) {
    this.#options = { rootId, mayStop, stopChild, addressOf };
    const content = h("div", { class: "log-content" });
    // Not live for screen readers: hundreds of lines a second can't be read out. The page
    // announces the status elsewhere.
    const box = h("div", {
      class: "log-box", role: "log", "aria-live": "off", "aria-label": "Progress log", tabindex: "0",
    }, content);
    element.classList.add("log");
    element.replaceChildren(box);
    element.addEventListener("click", (event) => this.#clicked(event));
    element.addEventListener("pointerover", ({ target }) => {
      if (target.matches("time:not([title])")) target.title = instant(target.dateTime, "full");
    });
    this.#scroll = new FollowEnd(element, box, content);
    this.#slices = new Slices((frame) => this.#take(frame), () => this.#tellScroll());
    content.append(this.#group(rootId).element);
  }

  /** Show what came; not at once, but in the next frames of the screen. */
  apply(frames) {
    this.#slices.add(frames);
  }

  /** Forget streamed text, also what was not shown yet. */
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
        this.#group(frame.run).text(frame.call, frame.text);
        break;
    }
  }

  #snapshot(run, words) {
    const group = this.#group(run.id);
    group.update(run, words);
    const parent = this.#groups.get(group.parent);
    if (!group.isPlaced) this.#place(group, run);
    else if (run.id !== this.#options.rootId) parent?.childChanged();
  }

  /** A group whose caller is not known yet is kept aside, with all its lines. */
  #place(group, run) {
    const parent = this.#groups.get(run.parent);
    if (parent) parent.addChild(group, run.created_at);
    else this.#homeless.set(run.id, { group, run });
  }

  #group(id) {
    const known = this.#groups.get(id);
    if (known) return known;
    const { rootId, ...options } = this.#options;
    const group = new Group(id, { isRoot: id === rootId, ...options });
    this.#groups.set(id, group);
    for (const [childId, child] of this.#homeless) {
      if (child.run.parent !== id) continue;
      this.#homeless.delete(childId);
      group.addChild(child.group, child.run.created_at);
    }
    return group;
  }

  #tellScroll() {
    this.#scroll.added(this.#lineCount);
    this.#lineCount = 0;
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
    if (button.dataset.action === "stop") group().askStop();
    this.#scroll.stay();
  }
}
