// Text of agents, models and people in the log. It is shown as it is, but stays in its place: no
// markup, no writing direction, no endless lines.
import { h } from "./dom.js";

const MANY_LINES = 12;
const HEAD_LINES = 8;
const MANY_CHARACTERS = 2_000;
const ONE_LINE = 160; // characters that may stand unfolded

// Colours of terminals; the escape characters would show as boxes.
const TERMINAL_CODES = /\u001b\[[0-9;?]*[A-Za-z]/g;

const COUNT = new Intl.NumberFormat();

/** A name or another short piece inside our own words. */
export function foreign(text) {
  return h("bdi", {}, asText(text));
}

/** Any JSON value as text. */
export function asText(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return text.includes("\u001b") ? text.replace(TERMINAL_CODES, "") : text;
}

/** A block of text; of a long one its head, and a button for the rest. */
export function block(text, className = "log-text") {
  const lines = text.replace(/\n$/, "").split("\n").length;
  if (lines <= MANY_LINES && text.length <= MANY_CHARACTERS) return h("pre", { class: className }, text);
  const all = lines > MANY_LINES
    ? `Show all ${COUNT.format(lines)} lines`
    : `Show all ${COUNT.format(text.length)} characters`;
  const shown = h("pre", { class: className }, headOf(text));
  const button = h("button", {
    type: "button", class: "log-more", "aria-expanded": "false", dataset: { action: "unfold", all },
  }, all);
  whole.set(button, text);
  return h("div", { class: "log-long" }, shown, button);
}

const whole = new WeakMap(); // button -> the text of which only the head is shown

/** A button of a long block was pressed. */
export function unfold(button) {
  const text = whole.get(button);
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.previousElementSibling.textContent = isOpen ? headOf(text) : text;
  button.setAttribute("aria-expanded", String(!isOpen));
  button.textContent = isOpen ? button.dataset.all : "Show less";
}

/** Text that shows its first line until it is opened; short text as it is. */
export function folded(text) {
  const trimmed = text.trim();
  if (trimmed.length <= ONE_LINE && !trimmed.includes("\n")) {
    return h("p", { class: "log-reply" }, foreign(trimmed));
  }
  const summary = [
    h("span", { class: "log-preview" }, foreign(trimmed.slice(0, 2 * ONE_LINE).split("\n", 1)[0])),
    h("span", { class: "log-less" }, "Show less"),
  ];
  return details(summary, trimmed, "log-reply");
}

/** Text under a word of ours, such as "Traceback", that opens it. */
export function titled(word, text) {
  return details(word, text, "log-text");
}

function details(summary, text, className) {
  return h("details", { class: "log-fold" },
    h("summary", {}, summary), h("pre", { class: className }, text));
}

function headOf(text) {
  return text.split("\n", HEAD_LINES).join("\n").slice(0, MANY_CHARACTERS);
}
