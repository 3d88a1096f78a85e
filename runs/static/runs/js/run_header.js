// The head of a run's page: chip, durations, usage, the window's title, what is read out.
import { showDuration, tickSince } from "./clock.js";
import { chip, h } from "./dom.js";
import { instant } from "./format.js";

const find = (id) => document.getElementById(id);

export class RunHeader {
  #looks;
  #main;
  #title;
  #status = null;
  #startedAt = null;

  /** `looks`: status -> {label, sign, tone}. `main` holds all of it, and carries the status. */
  constructor(looks, main) {
    this.#looks = looks;
    this.#main = main;
    this.#title = main.querySelector("h1").textContent;
  }

  show(state) {
    this.#showStatus(state);
    this.#showPhrases(state);
    const { run, isAlive } = state;
    if (!isAlive) showDuration(find("took"), run);
    else if (run.started_at) tickSince(find("running-for"), run.started_at);
    else tickSince(find("queued-for"), run.created_at);
  }

  #showStatus({ status, words }) {
    if (status === this.#status) return;
    const isFirst = this.#status === null;
    this.#status = status;
    if (isFirst && this.#main.dataset.status === status) return; // the server has drawn it
    this.#main.dataset.status = status;
    find("run-chip").replaceChildren(chip(status, words.status));
    document.title = `${this.#looks[status]?.sign ?? ""} ${words.status.label} · ${this.#title}`;
    // While it is stopping, the stop line is read out.
    if (status !== "stopping") find("announcement").textContent = words.receipt.join(" ") || words.status.label;
  }

  #showPhrases({ run, words, isAlive }) {
    const holds = {
      queued: !run.started_at,
      started: run.started_at,
      repeated: run.attempt > 1,
      used: words.usage,
      waiting: !run.started_at && isAlive,
      working: run.started_at && isAlive,
      over: run.started_at && !isAlive,
    };
    for (const element of document.querySelectorAll("[data-when]")) {
      if (!(element.dataset.when in holds)) continue; // another module's
      element.hidden = !holds[element.dataset.when];
    }
    find("attempt").textContent = run.attempt;
    find("usage").textContent = words.usage;
    if (!run.started_at || run.started_at === this.#startedAt) return;
    this.#startedAt = run.started_at;
    const time = h("time", { datetime: run.started_at, title: instant(run.started_at, "full") }, instant(run.started_at, "day"));
    find("started-at").replaceChildren(time);
  }
}
