// The Stop in a row of a list of runs: "Stop", "Stopping...", and then the harder stop that the
// server offers. The button carries the offer: data-offer.
import { isDue, isWanted } from "./offer.js";

const asked = new WeakMap(); // button -> the mode that was asked for

setInterval(() => document.querySelectorAll("[data-offer]").forEach(showIfDue), 500);

/** Let `button` say "stop", or "stopping" and be disabled; later it makes the offer, if there is one. */
export function showStop(button, name, offer = null) {
  if (offer) button.dataset.offer = JSON.stringify(offer);
  else delete button.dataset.offer;
  if (offer?.mode !== asked.get(button)) asked.delete(button);
  if (offer && isDue(offer) && !asked.has(button)) return showOffer(button, offer);
  const isStopping = name === "stopping";
  if (isStopping) keepFocus(button);
  button.disabled = isStopping;
  button.value = "graceful";
  button.title = "";
  const word = button.querySelector(".button-word");
  word.textContent = word.dataset[name];
}

/** Return the body of the request that a press of `button` asks for; null if the reader says no. */
export async function wantedStop(button) {
  const offer = button.dataset.offer && JSON.parse(button.dataset.offer);
  if (!offer) return {};
  if (!await isWanted(offer)) return null;
  asked.set(button, offer.mode);
  return { mode: offer.mode };
}

/** Let a button whose request failed be pressed again. */
export function offerAgain(button) {
  asked.delete(button);
  const offer = button.dataset.offer && JSON.parse(button.dataset.offer);
  showStop(button, offer ? "stopping" : "stop", offer);
}

function showIfDue(button) {
  const offer = JSON.parse(button.dataset.offer);
  if (button.disabled && isDue(offer) && !asked.has(button)) showOffer(button, offer);
}

function showOffer(button, { mode, label, hint, effect }) {
  button.disabled = false;
  button.value = mode;
  button.title = [hint, effect].filter(Boolean).join(". ");
  button.querySelector(".button-word").textContent = label;
}

/** A button that is disabled or removed would lose the focus: the row's link takes it. */
export function keepFocus(button) {
  if (document.activeElement === button) linkOf(button)?.focus({ preventScroll: true });
}

export function linkOf(element) {
  return element.closest("tr").querySelector("th a");
}
