// What time it is for the server (the reader's clock may be wrong by minutes), and durations that
// grow or shrink while a reader looks at them.
import { duration } from "./format.js";

let ahead = 0; // ms; how far the server's clock is ahead of ours

setInterval(() => document.querySelectorAll("[data-since], [data-until]").forEach(show), 500);

/** Take the server's time, of now or of a moment ago. */
export function setServerTime(iso, at = Date.now()) {
  ahead = Date.parse(iso) - at;
}

/** Take the server's time of its answer with this page: the script may have come much later. */
export function setServerTimeOfPage(iso) {
  const page = performance.getEntriesByType("navigation")[0];
  setServerTime(iso, page ? performance.timeOrigin + page.responseStart : Date.now());
}

/** Show in `element`, after `label`, how long it is since an instant. */
export function tickSince(element, since, label = "") {
  Object.assign(element.dataset, { since, label });
  show(element);
}

/** Show in `element` how long it is until an instant. */
export function tickUntil(element, until) {
  Object.assign(element.dataset, { until });
  show(element);
}

export function stopTicking(element) {
  delete element.dataset.since;
  delete element.dataset.until;
}

/** Show how long a run took, or has taken so far. */
export function showDuration(element, { started_at: began, finished_at: ended }) {
  if (began && !ended) return tickSince(element, began);
  stopTicking(element);
  element.textContent = began ? duration((Date.parse(ended) - Date.parse(began)) / 1000) : "";
}

function show(element) {
  const { since, until, label = "" } = element.dataset;
  const now = Date.now() + ahead;
  const seconds = Math.max(0, (until ? Date.parse(until) - now : now - Date.parse(since)) / 1000);
  // Without the tenths of short durations, which would change once a second.
  const time = seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds);
  const words = label ? `${label}, ${time}` : time;
  if (element.textContent !== words) element.textContent = words;
}
