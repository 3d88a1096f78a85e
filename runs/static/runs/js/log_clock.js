// Durations that grow while one looks at them. One timer for all of them, and none while nothing
// is alive.
import { duration } from "./format.js";

const running = new Map(); // element -> since when (ms)
let timer = 0;
let serverIsAhead = 0; // ms; what the server has written can't lie in the future

/** Let `element` say how long it is since `iso`, anew each second. */
export function tickSince(element, iso) {
  const since = Date.parse(iso);
  running.set(element, since);
  show(element, since);
  timer ||= setInterval(showAll, 1000);
}

/** Let it stand still. */
export function stopTicking(element) {
  running.delete(element);
  if (!running.size) {
    clearInterval(timer);
    timer = 0;
  }
}

/** Learn from an instant (ms) that the server has written how far behind this computer's clock is. */
export function learnTime(written) {
  serverIsAhead = Math.max(serverIsAhead, written - Date.now());
}

function showAll() {
  for (const [element, since] of running) show(element, since);
}

function show(element, since) {
  const seconds = Math.max(0, (Date.now() + serverIsAhead - since) / 1000);
  // Whole seconds: tenths that change once a second would only flicker.
  const words = seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds);
  if (element.textContent !== words) element.textContent = words;
}
