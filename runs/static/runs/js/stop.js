// The Stop button and the line that says what a stop waits for.
//
// After a click the page shows what the server says: "Stopping..." until the run has ended, also
// after a reload and in other tabs. If the request fails, the button is enabled again, with a reason.
import { stopTicking, tickSince } from "./clock.js";
import { h } from "./dom.js";
import { post } from "./http.js";

const find = (id) => document.getElementById(id);

export class StopControl {
  #address;
  #refresh;
  #state;
  #button = find("stop"); // null for a person who may see the run but not stop it
  #why = find("why");
  #reason = find("reason");
  #line = find("stop-line");
  #isAsking = false;
  #isAccepted = false; // by the server, without a newer frame yet
  #problem = "";
  #shown = ""; // the line's words, so that nothing is read out twice
  #detail = h("span", { class: "quiet", "aria-live": "off" });
  #waited = h("span"); // ticks

  /** `address` takes the POST; `refresh` asks the server for the run, and may fail. */
  constructor({ address, refresh }) {
    this.#address = address;
    this.#refresh = refresh;
    this.#button?.addEventListener("click", () => this.#ask());
    this.#reason?.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !this.#button.disabled) this.#ask();
    });
  }

  show(state) {
    this.#state = state;
    if (state.isStopping || !state.isAlive) this.#isAccepted = false;
    if (state.isStopping) this.#problem = "";
    this.#draw();
  }

  async #ask() {
    const reason = this.#reason.value.trim();
    this.#isAsking = true;
    this.#problem = "";
    this.#draw();
    try {
      await post(this.#address, reason ? { reason } : {});
      this.#isAccepted = true;
    } catch (error) {
      this.#problem = inWords(error);
    }
    this.#isAsking = false;
    this.#draw();
    // The feed may be away.
    await this.#refresh().catch(() => {});
  }

  #draw() {
    const { isAlive, isStopping } = this.#state;
    const isUnderWay = isStopping || (isAlive && (this.#isAsking || this.#isAccepted));
    if (this.#button) {
      const word = this.#button.querySelector(".button-word");
      word.textContent = isUnderWay ? word.dataset.stopping : word.dataset.stop;
      this.#button.disabled = isUnderWay || !isAlive;
      this.#why.hidden = isUnderWay || !isAlive;
    }
    this.#drawLine();
  }

  #drawLine() {
    const { words, isStopping } = this.#state;
    const said = isStopping ? words.silent ?? words.waiting?.text ?? "" : this.#problem;
    if (said !== this.#shown) {
      this.#shown = said;
      this.#line.replaceChildren(said, " ", this.#detail);
    }
    this.#line.classList.toggle("is-problem", !isStopping && Boolean(this.#problem));
    this.#drawDetail((isStopping && !words.silent && words.waiting) || {});
  }

  #drawDetail({ label, since }) {
    stopTicking(this.#waited);
    this.#detail.replaceChildren(...(label || since ? ["· ", this.#waited] : []));
    if (since) tickSince(this.#waited, since, label);
    else this.#waited.textContent = label ?? "";
  }
}

/** Say why a stop was not accepted. */
export function inWords(error) {
  if (error.status === 409) return "Nothing was stopped: the run had finished first.";
  // The request may have arrived; another one does no harm.
  if (error.code === "offline" || error.status >= 500) return `The stop may not have arrived. ${error.message} Press Stop again.`;
  if (error.code === "not_authenticated") return "The stop was not accepted: you are signed out.";
  return `The stop was not accepted. ${error.message}`;
}
