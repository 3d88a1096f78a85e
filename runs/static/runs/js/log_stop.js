// The small Stop in the header of a called run: disabled and "Stopping..." until the run has ended,
// or enabled again, with the reason, if the request fails. After a while it is the harder stop that
// the server offers.
import { h, sign } from "./dom.js";
import { isDue, isWanted, whenDue } from "./offer.js";

export class StopChild {
  #request;
  #word = h("span", {}, "Stop");
  #button;
  #failure = h("span", { class: "group-failure", role: "status" });
  #agent = "";
  #isStopping = false;
  #offer = null;
  #asked = ""; // the mode that the server was asked for
  #timer = 0;

  /** `request(body)` sends the POST. */
  constructor(element, request) {
    this.#request = request;
    this.#button = h("button", {
      type: "button", class: "button button-small", dataset: { action: "stop" }, hidden: true,
    }, sign("stop"), this.#word);
    element.append(this.#button, this.#failure);
  }

  name(agent) {
    this.#agent = agent;
    this.#draw();
  }

  /** `status` and `offer` are the run's, as the server knows them. */
  update(status, isAlive, offer = null) {
    this.#button.hidden = !isAlive;
    if (!isAlive) this.#failure.textContent = "";
    this.#isStopping = status === "stopping";
    this.#offer = isAlive ? offer : null;
    if (this.#asked && this.#isStopping && this.#asked !== offer?.mode) this.#asked = "";
    this.#draw();
  }

  async ask() {
    if (this.#button.disabled) return;
    const offer = isDue(this.#offer) ? this.#offer : null;
    if (offer && !await isWanted(offer)) return;
    this.#asked = offer?.mode ?? "graceful";
    this.#failure.textContent = "";
    this.#draw();
    try {
      await this.#request(offer ? { mode: offer.mode } : {});
    } catch (error) {
      // If the request arrived all the same, the next snapshot says so.
      this.#asked = "";
      this.#failure.textContent = `Not stopped: ${error.message}`;
      this.#draw();
    }
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = whenDue(this.#offer, () => this.#draw());
    const offer = !this.#asked && isDue(this.#offer) ? this.#offer : null;
    const isWaiting = !offer && (this.#isStopping || Boolean(this.#asked));
    this.#button.disabled = isWaiting;
    this.#button.title = offer ? [offer.hint, offer.effect].filter(Boolean).join(". ") : "";
    const word = offer?.label ?? (isWaiting ? "Stopping..." : "Stop");
    this.#word.textContent = word;
    this.#button.setAttribute("aria-label", `${word.replace("...", "")} ${this.#agent}`);
  }
}
