// The Stop button, the line that says what a stop waits for, and the harder stop that is offered.
//
// After a click the page shows what the server says: "Stopping..." until the run has ended, also
// after a reload and in other tabs. If the request fails, the button is enabled again, with a reason.
import { stopTicking, tickSince, tickUntil } from "./clock.js";
import { h } from "./dom.js";
import { post } from "./http.js";
import { isDue, isWanted, whenDue } from "./offer.js";

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
  #harder;

  /** `address` takes the POST; `refresh` asks the server for the run, and may fail. */
  constructor({ address, refresh }) {
    this.#address = address;
    this.#refresh = refresh;
    this.#harder = this.#button && new HarderStop((body) => this.#send(body), this.#line);
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
      await this.#send(reason ? { reason } : {});
      this.#isAccepted = true;
    } catch (error) {
      this.#problem = inWords(error);
    }
    this.#isAsking = false;
    this.#draw();
  }

  async #send(body) {
    try {
      await post(this.#address, body);
    } finally {
      // The feed may be away.
      this.#refresh().catch(() => {});
    }
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
    showPlan(isStopping ? this.#state.words.planned : []);
    this.#harder?.show(isStopping ? this.#state.words.offer : null);
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

/** The button with the harder stop, and the sentence beside it. */
class HarderStop {
  #send;
  #line;
  #box = find("offer");
  #button = find("harder");
  #effect = find("harder-effect");
  #offer = null;
  #asked = ""; // the mode that the server was asked for, until it offers another one
  #problem = "";
  #timer = 0;
  #question = null; // AbortController of the open question

  constructor(send, line) {
    this.#send = send;
    this.#line = line;
    this.#button.addEventListener("click", (event) => {
      event.preventDefault(); // in the admin it could be sent without a script
      this.#ask();
    });
  }

  show(offer) {
    if (offer?.mode !== this.#offer?.mode) {
      this.#problem = "";
      this.#question?.abort();
    }
    if (offer?.mode !== this.#asked) this.#asked = "";
    this.#offer = offer;
    this.#draw();
  }

  async #ask() {
    const offer = this.#offer;
    this.#question = new AbortController();
    const isAgreed = await isWanted(offer, this.#question.signal);
    this.#question = null;
    if (!isAgreed || this.#offer?.mode !== offer.mode) return;
    this.#asked = offer.mode;
    this.#problem = "";
    this.#draw();
    try {
      await this.#send({ mode: offer.mode });
    } catch (error) {
      this.#asked = "";
      this.#problem = inWords(error, offer.label);
      this.#draw();
    }
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = whenDue(this.#offer, () => this.#draw());
    const isShown = isDue(this.#offer) && !this.#asked;
    // A hidden button would lose the focus, and with it the place of a keyboard user.
    if (!isShown && document.activeElement === this.#button) this.#line.focus({ preventScroll: true });
    this.#box.hidden = !isShown;
    if (!isShown) return;
    const { mode, label, hint, effect } = this.#offer;
    this.#button.value = mode;
    this.#write(this.#button.querySelector(".button-word"), label);
    this.#write(this.#button.querySelector(".button-hint"), hint && `(${hint})`);
    this.#write(this.#effect, this.#problem || effect);
    this.#effect.classList.toggle("is-problem", Boolean(this.#problem));
  }

  #write(element, words) {
    if (element.textContent !== words) element.textContent = words; // is not read out again
  }
}

/** Count down to what the stop does by itself. */
function showPlan(planned) {
  const line = find("stop-plan");
  if (line.childElementCount !== planned.length) line.replaceChildren(...planned.map(() => h("span", { "aria-live": "off" })));
  planned.forEach(({ at, text }, index) => tickUntil(line.children[index], at, text));
}

/** Say why a stop was not accepted; `button` is the one to press again. */
export function inWords(error, button = "Stop") {
  if (error.status === 409) return "Nothing was stopped: the run had finished first.";
  // The request may have arrived; another one does no harm.
  if (error.code === "offline" || error.status >= 500) return `The stop may not have arrived. ${error.message} Press ${button} again.`;
  if (error.code === "not_authenticated") return "The stop was not accepted: you are signed out.";
  return `The stop was not accepted. ${error.message}`;
}
