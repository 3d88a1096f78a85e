// Every stored event of the run, page by page.
import { h } from "./dom.js";
import { instant } from "./format.js";
import { get } from "./http.js";

const PAGE = 200;
const SUMMARY = 160; // characters

export class EventsPanel {
  #element;
  #address;
  #download;
  #lastSeq = 0;
  #rows = h("tbody");
  #more = h("button", { type: "button", class: "button button-small", onclick: () => this.#load() }, "Show more");
  #note = h("p", { class: "small quiet", role: "status" });

  constructor(element, address, download) {
    this.#element = element;
    this.#address = address;
    this.#download = download;
  }

  /** Load the first page when the reader opens the panel. */
  async show() {
    if (!this.#element.hasChildNodes()) this.#build();
    if (!this.#rows.hasChildNodes()) await this.#load();
  }

  #build() {
    const heads = ["Seq", "Time", "Agent", "Type", "Data"].map((word) => h("th", { scope: "col" }, word));
    this.#element.append(
      h("h2", { class: "visually-hidden" }, "Events"),
      h("div", { class: "value-tools" }, h("a", { class: "button button-small", href: this.#download, download: true }, "Download")),
      h("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": "Events" },
        h("table", { class: "table table-events" }, h("thead", {}, h("tr", {}, heads)), this.#rows)),
      h("div", { class: "buttons events-more" }, this.#more, this.#note),
    );
  }

  async #load() {
    this.#more.disabled = true;
    try {
      const page = await get(`${this.#address}?after=${this.#lastSeq}&limit=${PAGE}`);
      this.#rows.append(...page.results.map(row));
      this.#lastSeq = page.results.at(-1)?.seq ?? this.#lastSeq;
      this.#more.hidden = page.ended;
      this.#note.textContent = said(this.#lastSeq, page);
    } catch (error) {
      this.#note.textContent = `The events could not be loaded. ${error.message}`;
    }
    this.#more.disabled = false;
  }
}

function said(shown, page) {
  if (!page.last_seq) return "Nothing has happened yet.";
  if (page.ended && shown < page.last_seq) return "The log was removed.";
  return `${shown} of ${page.last_seq}${page.ended ? "" : " so far"}`;
}

function row(event) {
  const json = JSON.stringify(event.data);
  const summary = json.length > SUMMARY ? `${json.slice(0, SUMMARY)}…` : json;
  const data = json === "{}"
    ? ""
    : h("details", { ontoggle: unfold }, h("summary", { class: "mono" }, summary));
  return h("tr", {},
    h("td", { class: "number" }, String(event.seq)),
    h("td", {}, h("time", { datetime: event.ts, title: event.ts }, instant(event.ts))),
    h("td", { dir: "auto" }, event.agent),
    h("td", {}, event.type),
    h("td", {}, data));

  /** Format the data only when the reader opens it: there may be thousands of events. */
  function unfold(toggle) {
    const details = toggle.target;
    if (details.open && !details.querySelector("pre")) {
      details.append(h("pre", { class: "raw" }, JSON.stringify(event.data, null, 2)));
    }
  }
}
