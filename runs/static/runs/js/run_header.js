// The head of a run's page: chip, durations, usage, the window's title, what is read out.
import { chip, h } from "./dom.js";
import { duration, instant } from "./format.js";
import { secondsSince, ticking } from "./server_clock.js";

const find = (id) => document.getElementById(id);

export class RunHeader {
  #looks;
  #main;
  #title;
  #status = null;
  #startedAt = null;
  #state;

  /** `looks`: status -> {label, sign, tone}. `main` holds all of it, and carries the status. */
  constructor(looks, main = find("main")) {
    this.#looks = looks;
    this.#main = main;
    this.#title = main.querySelector("h1").textContent;
    setInterval(() => this.#tick(), 250);
  }

  show(state) {
    this.#state = state;
    this.#showStatus();
    this.#showPhrases();
    this.#tick();
  }

  #showStatus() {
    const { status, words } = this.#state;
    if (status === this.#status) return;
    const isFirst = this.#status === null;
    this.#status = status;
    if (isFirst && this.#main.dataset.status === status) return; // the server has drawn it
    this.#main.dataset.status = status;
    find("run-chip").replaceChildren(chip(status, words.status));
    document.title = `${this.#looks[status]?.sign ?? ""} ${words.status.label} · ${this.#title}`;
    // What it waits for while stopping is read out by the stop line.
    if (status !== "stopping") find("announcement").textContent = words.receipt.join(" ") || words.status.label;
  }

  #showPhrases() {
    const { run, words, isAlive } = this.#state;
    const holds = {
      unbegun: !run.started_at,
      begun: run.started_at,
      repeated: run.attempt > 1,
      used: words.usage,
      waiting: !run.started_at && isAlive,
      working: run.started_at && isAlive,
      over: run.started_at && !isAlive,
    };
    for (const element of document.querySelectorAll("[data-when]")) {
      element.hidden = !holds[element.dataset.when];
    }
    find("attempt").textContent = run.attempt;
    find("usage").textContent = words.usage;
    if (run.started_at && run.started_at !== this.#startedAt) this.#showStart(run.started_at);
  }

  #showStart(at) {
    this.#startedAt = at;
    const time = h("time", { datetime: at, title: instant(at, "full") }, instant(at, "day"));
    find("started-at").replaceChildren(time);
  }

  #tick() {
    const { run, isAlive } = this.#state;
    if (!isAlive) return this.#showEnd(run);
    const id = run.started_at ? "running-for" : "queued-for";
    write(find(id), ticking(secondsSince(run.started_at ?? run.created_at)));
  }

  #showEnd(run) {
    if (!run.started_at || !run.finished_at) return;
    write(find("took"), duration(secondsSince(run.started_at, run.finished_at)));
  }
}

function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
