// How far a run says that it is: one bar, "reading 5 of 9".
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

  /** Without a total it is unknown how far it is: the number alone is shown. */
  show({ done, total, message }) {
    const text = asText(message).trim();
    const known = typeof total === "number" && total > 0;
    if (known) Object.assign(this.#bar, { max: total, value: Number(done) || 0 });
    this.#bar.hidden = !known;
    this.#bar.setAttribute("aria-label", text || "Progress");
    this.#label.replaceChildren(foreign(text), " ", count(done, known ? total : null));
    this.#element.hidden = false;
  }

  /** The run is over. How far it came is news only if it didn't come to its end. */
  end(status) {
    if (status === "success") this.#element.hidden = true;
  }
}

function count(done, total) {
  if (typeof done !== "number") return asText(done);
  return total === null ? NUMBER.format(done) : `${NUMBER.format(done)} of ${NUMBER.format(total)}`;
}
