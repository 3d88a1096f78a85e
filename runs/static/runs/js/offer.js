// The harder stop that a stopping run is offered, and the question before the last one.
//
// An offer comes from the server: {mode, label, hint, effect, at, confirm}. It is shown from `at` on,
// by the server's clock: after a reload and in every tab at the same instant.
import { serverNow } from "./clock.js";
import { h } from "./dom.js";

/** Say whether an offer is there, and its time has come. */
export function isDue(offer) {
  return Boolean(offer) && millisecondsUntil(offer) <= 0;
}

/** Call `act` when the time of an offer comes; return what clearTimeout takes. */
export function whenDue(offer, act) {
  return offer && !isDue(offer) ? setTimeout(act, millisecondsUntil(offer) + 20) : 0;
}

function millisecondsUntil(offer) {
  return Date.parse(offer.at) - serverNow();
}

/** Ask before an act that nothing can undo; return whether the reader wants it. */
export function isWanted({ effect, confirm }, signal = null) {
  if (!confirm) return true;
  const dialog = h("dialog", { class: "question", "aria-labelledby": "question", "aria-describedby": "question-effect" },
    h("form", { method: "dialog" },
      h("h2", { id: "question" }, confirm.question),
      h("p", { id: "question-effect" }, effect),
      h("div", { class: "buttons" },
        h("button", { class: "button", value: "no", autofocus: true }, confirm.no),
        h("button", { class: "button button-grave", value: "yes" }, confirm.yes))));
  document.body.append(dialog);
  dialog.showModal();
  signal?.addEventListener("abort", () => dialog.close("no"));
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
