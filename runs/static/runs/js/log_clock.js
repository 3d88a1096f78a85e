// Durations that grow while one looks at them. One timer for all of them, and none while nothing
// is alive.
import { secondsSince, ticking } from "./server_clock.js";

const running = new Map(); // element -> since when
let timer = 0;

/** Let `element` say how long it is since the instant `since`, updated each second. */
export function tickSince(element, since) {
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

function showAll() {
  for (const [element, since] of running) show(element, since);
}

function show(element, since) {
  const words = ticking(secondsSince(since));
  if (element.textContent !== words) element.textContent = words;
}
