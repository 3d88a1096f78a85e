// Numbers and instants for people; durations and tokens as runs/wording writes them.

/** "320 ms", "3.2 s", "41 s", "1:42", "1:02:03"; never rounded up. */
export function duration(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 1) return `${Math.floor(seconds * 1000)} ms`;
  if (seconds < 10) return `${(Math.floor(seconds * 10) / 10).toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** "812", "12.4k", "1.2M"; never rounded up. */
export function short(count) {
  for (const [size, letter] of [[1_000_000, "M"], [1_000, "k"]]) {
    if (count >= size) return `${Math.floor((count * 10) / size) / 10}${letter}`;
  }
  return String(count);
}

/** "7 LLM calls · 12.4k tokens"; nothing if no model was called. */
export function usageText({ llm_calls: calls, input_tokens: read, output_tokens: written, estimated }) {
  if (!calls) return "";
  const tokens = read + written;
  const about = estimated ? "~" : "";
  return `${calls} LLM ${calls === 1 ? "call" : "calls"} · ${about}${short(tokens)} ${tokens === 1 ? "token" : "tokens"}`;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const SHORT_TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const DAY_AND_TIME = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/**
 * Write an instant: form is "time" (14:03:22), "short" (14:03, or the day), "day" (14:03:22, or the
 * day and 14:03), "full".
 */
export function instant(iso, form = "time", now = new Date()) {
  const at = new Date(iso);
  if (form === "full") return FULL.format(at);
  if (form === "time") return TIME.format(at);
  if (at.toDateString() === now.toDateString()) return (form === "short" ? SHORT_TIME : TIME).format(at);
  if (at.getFullYear() !== now.getFullYear()) return YEAR.format(at);
  return (form === "short" ? DAY : DAY_AND_TIME).format(at);
}

/** Write every <time data-form> below `root` in the reader's time zone. */
export function localiseInstants(root) {
  for (const element of root.querySelectorAll("time[data-form]")) {
    element.textContent = instant(element.dateTime, element.dataset.form);
    element.title = instant(element.dateTime, "full");
  }
}

/** The reader's time zone, for sentences that the server writes; may be "". */
export const timeZone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
