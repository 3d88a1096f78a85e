// The progress that a run reports: one bar, "reading 5 of 9".
import { h } from "./dom.js";
import { asText, foreign } from "./log_text.js";

const NUMBER = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

export class ProgressBar {
  #element;
  #bar = h("progress");
  #label = h("span", { class: "progress-label" });

  constructor(element) {
    this.#element = element;
    element.append(this.#bar, this.#label);
  }

  /** Without a total, show the number alone. */
  show({ done, total, message }) {
    const text = asText(message).trim();
    const known = typeof total === "number" && total > 0;
    if (known) Object.assign(this.#bar, { max: total, value: Number(done) || 0 });
    this.#bar.hidden = !known;
    this.#bar.setAttribute("aria-label", text || "Progress");
    this.#label.replaceChildren(foreign(text), " ", count(done, known ? total : null));
    this.#element.hidden = false;
  }

  /** The run is over. A success needs no bar. */
  end(status) {
    if (status === "success") this.#element.hidden = true;
  }
}

function count(done, total) {
  if (typeof done !== "number") return asText(done);
  return total === null ? NUMBER.format(done) : `${NUMBER.format(done)} of ${NUMBER.format(total)}`;
}
