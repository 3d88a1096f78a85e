// The small Stop in the header of a called run: disabled and "Stopping..." until the run has ended,
// or enabled again, with the reason, if the request fails.
import { h, sign } from "./dom.js";

export class StopChild {
  #request;
  #word = h("span", {}, "Stop");
  #button;
  #failure = h("span", { class: "group-failure", role: "status" });
  #agent = "";
  #isAsked = false;

  constructor(element, request) {
    this.#request = request;
    this.#button = h("button", {
      type: "button", class: "button button-small", dataset: { action: "stop" }, hidden: true,
    }, sign("stop"), this.#word);
    element.append(this.#button, this.#failure);
  }

  name(agent) {
    this.#agent = agent;
    this.#show(this.#button.disabled);
  }

  /** `status` is the run's, as the server knows it. */
  update(status, isAlive) {
    this.#button.hidden = !isAlive;
    if (!isAlive) this.#failure.textContent = "";
    this.#show(status === "stopping" || this.#isAsked);
  }

  async ask() {
    if (this.#button.disabled) return;
    this.#isAsked = true;
    this.#failure.textContent = "";
    this.#show(true);
    try {
      await this.#request();
    } catch (error) {
      // If the request arrived all the same, the next snapshot says so.
      this.#isAsked = false;
      this.#failure.textContent = `Not stopped: ${error.message}`;
      this.#show(false);
    }
  }

  #show(isStopping) {
    this.#button.disabled = isStopping;
    this.#word.textContent = isStopping ? "Stopping..." : "Stop";
    this.#button.setAttribute("aria-label", `${isStopping ? "Stopping" : "Stop"} ${this.#agent}`);
  }
}
