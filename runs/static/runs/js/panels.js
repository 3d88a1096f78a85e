// A panel that the server draws: result, input, receipt.
import { h } from "./dom.js";
import { localiseInstants, timeZone } from "./format.js";
import { getFragment } from "./http.js";

export class Panel {
  #element;
  #address;
  #newest = 0; // number of the newest request; answers to older ones are dropped

  constructor(element, address) {
    this.#element = element;
    this.#address = `${address}?tz=${encodeURIComponent(timeZone)}`;
  }

  get isEmpty() {
    return !this.#element.hasChildNodes();
  }

  /** Let the server draw it again. */
  async load() {
    const number = ++this.#newest;
    try {
      const content = await getFragment(this.#address);
      if (number !== this.#newest) return;
      localiseInstants(content);
      this.#element.replaceChildren(content);
    } catch (error) {
      if (number === this.#newest) this.#offerRetry(error);
    }
  }

  #offerRetry(error) {
    const retry = h("button", { type: "button", class: "button button-small", onclick: () => this.load() }, "Try again");
    this.#element.replaceChildren(h("p", { class: "empty" }, `This could not be loaded. ${error.message} `, retry));
  }
}
