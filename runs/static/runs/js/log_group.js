// One run in the log: a header with its state, and below it its events and the runs that it called.
import { showDuration } from "./clock.js";
import { chip, h } from "./dom.js";
import { LiveRows } from "./log_live.js";
import { lineOf } from "./log_line.js";
import { ProgressBar } from "./log_progress.js";
import { StopChild } from "./log_stop.js";
import { foreign } from "./log_text.js";
import { Timeline } from "./log_timeline.js";
import { isActive } from "./run_state.js";

let groupCount = 0;

export class Group {
  #isRoot;
  #run = null;
  #look = "";
  #attempts = 0;
  #mode = ""; // of its stop
  #inFlight = [];
  #children = new Map(); // run -> group
  #callLines = new Map(); // run -> line of its call, until it has a group

  constructor(id, { isRoot, mayStop, stopChild, addressOf }) {
    this.id = id;
    this.#isRoot = isRoot;
    this.isPlaced = isRoot;
    this.#build(addressOf);
    this.stop = !isRoot && mayStop ? new StopChild(this.parts.actions, (body) => stopChild(id, body)) : null;
    this.timeline = new Timeline(this.parts.body);
    this.live = new LiveRows(this.parts.live);
    this.progress = new ProgressBar(this.parts.progress);
  }

  get isAlive() {
    return isActive(this.#run?.status);
  }

  get #isOver() {
    return this.#run !== null && !this.isAlive;
  }

  get agent() {
    return this.#run?.agent ?? "";
  }

  get parent() {
    return this.#run?.parent ?? null;
  }

  get createdAt() {
    return Date.parse(this.#run.created_at);
  }

  /** Show a snapshot of the run. */
  update(run, words) {
    this.#run = run;
    this.element.dataset.status = run.status;
    this.#name(run.agent);
    this.#showChip(run.status, words.status);
    showDuration(this.parts.time, run);
    this.parts.usage.textContent = words.usage ?? "";
    this.parts.note.textContent = [words.waiting?.text, words.silent, words.log_removed].filter(Boolean).join(" ");
    this.stop?.update(run.status, this.isAlive, words.offer);
    this.#inFlight = this.#isOver ? [] : (run.in_flight ?? []);
    if (this.#isOver) {
      this.live.clear();
      this.progress.end(run.status);
    } else {
      this.showLive();
    }
    const text = { queued: "Waiting for a worker.", running: "Nothing has happened yet." };
    this.parts.empty.textContent = text[run.status] ?? (this.isAlive ? "" : "Nothing was logged.");
  }

  /** Show the calls in flight. */
  activity({ in_flight: calls, words }) {
    if (!this.#isOver) this.#inFlight = calls;
    this.showLive();
    if (!words) return;
    this.parts.usage.textContent = words.usage ?? "";
    if (this.#run) this.stop?.update(this.#run.status, this.isAlive, words.offer);
  }

  /** Show a piece of what a model is writing. */
  write(call, text) {
    if (!this.#isOver) this.live.write(call, text);
  }

  /** Show an event; return whether it made a line. */
  event(event) {
    if (!this.#run) this.#name(event.agent);
    if (event.data?.call) this.live.end(event.data.call);
    if (event.type === "progress") {
      this.progress.show(event.data);
      if (this.#isOver) this.progress.end(this.#run.status);
      return false;
    }
    const child = event.type === "agent_call" && event.data.run;
    if (child && this.#children.has(child)) return false; // its group says more
    if (event.type === "agent_start") this.#attempts += 1;
    if (event.type === "stop_requested") this.#mode = event.data.mode;
    const line = lineOf(event, { attempt: this.#attempts, mode: this.#mode });
    if (child) {
      this.#callLines.get(child)?.remove(); // "started", of a run that is now waited for
      this.#callLines.set(child, line);
    }
    this.timeline.addLine(line, Date.parse(event.ts));
    this.parts.empty.hidden = true;
    return true;
  }

  /** Put the group of a called run to its place in time. */
  addChild(group) {
    this.#children.set(group.id, group);
    group.isPlaced = true;
    this.timeline.addChild(group.element, group.createdAt);
    this.#callLines.get(group.id)?.remove();
    this.#callLines.delete(group.id);
    this.showLive();
    this.parts.empty.hidden = true;
  }

  toggle() {
    const isOpen = this.parts.toggle.getAttribute("aria-expanded") === "true";
    this.parts.toggle.setAttribute("aria-expanded", String(!isOpen));
    this.parts.body.hidden = isOpen;
  }

  /** Show the calls in flight, except those of agents that have a group. */
  showLive() {
    const shown = new Map();
    for (const child of this.#children.values()) {
      if (child.isAlive) shown.set(child.agent, (shown.get(child.agent) ?? 0) + 1);
    }
    const isShown = ({ tool, label }) => {
      const left = tool === "agents.call" || tool === "agents.wait" ? shown.get(label) : 0;
      if (left) shown.set(label, left - 1);
      return Boolean(left);
    };
    const hidden = this.#inFlight.filter(isShown);
    this.live.hide(hidden);
    this.live.show(this.#inFlight.filter((call) => !hidden.includes(call)));
    if (this.live.count) this.parts.empty.hidden = true;
  }

  #name(agent) {
    if (this.parts.name.textContent === agent) return;
    this.parts.name.replaceChildren(foreign(agent));
    this.element.setAttribute("aria-label", agent);
    this.parts.open?.setAttribute("aria-label", `Open ${agent}`);
    this.stop?.name(agent);
  }

  #showChip(status, look) {
    const shown = `${status} ${look.label} ${look.tone}`;
    if (this.#isRoot || shown === this.#look) return;
    this.#look = shown;
    this.parts.chip.replaceChildren(chip(status, look));
  }

  #build(addressOf) {
    const bodyId = `log-group-${(groupCount += 1)}`;
    const span = (name) => h("span", { class: `group-${name}` });
    const parts = {
      name: span("name"), chip: span("chip"), time: span("time"), usage: span("usage"), actions: span("actions"),
      note: h("p", { class: "group-note" }),
      progress: h("div", { class: "group-progress", hidden: true }),
      empty: h("p", { class: "group-empty", hidden: !this.#isRoot }),
      live: h("div", { class: "group-live" }),
    };
    parts.body = h("div", { class: "group-body", id: bodyId }, parts.empty, parts.live);
    parts.toggle = h("button", {
      type: "button", class: "group-toggle", "aria-expanded": "true", "aria-controls": bodyId,
      dataset: { action: "fold" },
    }, h("span", { class: "group-arrow", "aria-hidden": "true" }), parts.name);
    if (!this.#isRoot) {
      parts.open = h("a", { class: "group-open", href: addressOf(this.id) }, "Open");
      parts.actions.append(parts.open);
    }
    const header = h("header", { class: "group-header" },
      parts.toggle, parts.chip, parts.time, parts.usage, parts.progress, parts.actions, parts.note);
    this.parts = parts;
    this.element = h("section", {
      class: this.#isRoot ? "group group-root" : "group", dataset: { run: this.id },
    }, header, parts.body);
  }
}
