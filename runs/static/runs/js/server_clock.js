// What time it is for the server: the reader's clock may be wrong by minutes.
import { duration } from "./format.js";

let ahead = 0; // ms; how far the server's clock is ahead of ours

/** Learn what time it is there, now or a moment ago. */
export function setServerTime(iso, heardAt = Date.now()) {
  ahead = Date.parse(iso) - heardAt;
}

/** Learn what time it was there when it answered with this page; scripts may have come much later. */
export function setServerTimeOfPage(iso) {
  const page = performance.getEntriesByType("navigation")[0];
  setServerTime(iso, page ? performance.timeOrigin + page.responseStart : Date.now());
}

/** Seconds between an instant and now, or `until`. */
export function secondsSince(iso, until = null) {
  const end = until ? Date.parse(until) : Date.now() + ahead;
  return Math.max(0, (end - Date.parse(iso)) / 1000);
}

/** As `duration`, without tenths that would change once a second. */
export function ticking(seconds) {
  return seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds);
}
