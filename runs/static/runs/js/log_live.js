// The calls in flight of one run, at the end of its group, and the text that a model is writing.
// The event of a call takes the place of its row.
import { stopTicking, tickSince } from "./clock.js";
import { h } from "./dom.js";
import { inFlightParts } from "./log_call.js";
import { separated } from "./log_line.js";
import { asText } from "./log_text.js";

const MOST_TEXT = 20_000; // characters of a reply that are kept while it is written
const LINGER = 2_000; // ms that the row of a call that is over waits for its event

export class LiveRows {
  #element;
  #rows = new Map(); // call -> { element, timer, text }
  #over = new Set(); // calls whose events have come: late frames about them are ignored

  constructor(element) {
    this.#element = element;
  }

  get count() {
    return this.#rows.size;
  }

  /** Show these calls. One that is missing is over, and its event is on the way. */
  show(calls) {
    const current = new Set(calls.map(({ call }) => call));
    for (const [call, row] of this.#rows) if (!current.has(call)) this.#linger(call, row);
    for (const call of calls) if (!this.#over.has(call.call)) this.#put(call);
  }

  /** Leave these out: their groups show them. */
  hide(calls) {
    for (const { call } of calls) this.#drop(call);
  }

  /** A piece of what a model is writing. */
  write(call, text) {
    if (this.#over.has(call)) return;
    const row = this.#rows.get(call) ?? this.#add(call, inFlightParts({ tool: "call_llm", label: "" }));
    if (!row.text) {
      row.text = h("pre", { class: "live-text" }, h("span"));
      row.body.append(row.text);
      row.word.textContent = " · writing...";
    }
    const written = row.text.firstChild;
    written.append(asText(text));
    if (written.childNodes.length > 50) written.textContent = written.textContent.slice(-MOST_TEXT);
  }

  /** The event of a call has come. */
  end(call) {
    this.#over.add(call);
    this.#drop(call);
  }

  /** Forget the text so far: the feed sends it again from its start. */
  forgetText() {
    for (const row of this.#rows.values()) {
      row.text?.remove();
      row.text = null;
      row.word.textContent = "";
    }
  }

  clear() {
    for (const call of [...this.#rows.keys()]) this.#drop(call);
  }

  #put({ call, tool, label, started_at: startedAt }) {
    const row = this.#rows.get(call) ?? this.#add(call);
    this.#stay(row);
    if (row.startedAt) return;
    row.startedAt = startedAt;
    const { kind, parts } = inFlightParts({ tool, label });
    row.kind.textContent = kind;
    row.what.replaceChildren(...separated(parts).flat());
    row.time.parentElement.hidden = false;
    tickSince(row.time, startedAt);
  }

  #add(call, { kind, parts } = { kind: "", parts: [] }) {
    const row = {
      kind: h("span", { class: "line-kind" }, kind),
      what: h("span", {}, separated(parts)),
      time: h("span"),
      word: h("span", { class: "live-word" }),
      text: null, startedAt: null, timer: 0,
    };
    row.body = h("div", { class: "line-body" },
      h("p", { class: "line-text" }, row.what, h("span", { hidden: true }, " · ", row.time), row.word));
    row.element = h("div", { class: "line live", dataset: { call } },
      h("span", { class: "line-time" }, h("span", { class: "live-dot" })), row.kind, row.body);
    this.#rows.set(call, row);
    this.#element.append(row.element);
    return row;
  }

  /** Keep the row for a moment: without it the place would flicker until the event comes. */
  #linger(call, row) {
    stopTicking(row.time);
    row.timer ||= setTimeout(() => this.#drop(call), LINGER);
  }

  #stay(row) {
    clearTimeout(row.timer);
    row.timer = 0;
  }

  #drop(call) {
    const row = this.#rows.get(call);
    if (!row) return;
    this.#stay(row);
    row.element.remove();
    this.#rows.delete(call);
  }
}
