// One place of the form: label, help, control, and the message when something is wrong with it.
// A field knows its own part of the schema and how to read it; what surrounds it is its parent's.
import { h } from "./dom.js";

/** What `read` gives for a field that is left out of the input. */
export const ABSENT = undefined;

let lastId = 0;

/**
 * The base of all fields. `form` is what they share (see form.js), `schema` is resolved and without
 * its null, `place` says where the field stands:
 *   path        the keys that lead to it, ["documents", 0]
 *   label       what a person calls it; `mark` stands beside it, for the eyes that skip the rest
 *   isRequired  it can't be left out
 *   isNullable  an empty one means null
 *   parent      the field that it is a named part of
 *   isSilent    the label is there for those who listen only; something beside it shows it
 */
export class Field {
  constructor(form, schema, place) {
    this.form = form;
    this.schema = schema;
    this.place = place;
    this.id = `field-${++lastId}`;
    this.labelText = h("span", {}, place.label);
    this.errorLine = h("p", { class: "field-error", id: `${this.id}-error`, hidden: true });
    const help = place.help ?? schema.description ?? "";
    this.helpLine = help && h("p", { class: "field-help", id: `${this.id}-help` }, withCode(help));
  }

  // What kinds of fields say for themselves.

  /**
   * The JSON value, or ABSENT. Of use only while `problems()` is empty, except for a draft: what to
   * keep over a reload, without files and passwords.
   */
  read(_isDraft) { return ABSENT; }

  /** What is wrong with this very field, or "". */
  problem() { return ""; }

  /** The fields inside. */
  children() { return []; }

  /** The element that is described by help and error, and carries data-path. */
  get control() { return this.element; }

  // What all have in common.

  /** Its label, with those of what it is a part of: "Person: Name". */
  get fullName() {
    const { label, parent } = this.place;
    return parent?.place.label ? `${parent.fullName}: ${label}` : label;
  }

  /** Whether it may be left without a value. */
  get isOpen() {
    return this.place.isNullable || (!this.place.isRequired && this.schema.default === undefined);
  }

  /** What it means to be empty, where it may be. */
  get emptyValue() {
    const { isNullable, isRequired } = this.place;
    return isNullable && (isRequired || (this.schema.default ?? null) !== null) ? null : ABSENT;
  }

  problems() {
    const message = this.problem();
    const own = message ? [{ field: this, message }] : [];
    return [...own, ...this.children().flatMap((child) => child.problems())];
  }

  /** Wait until files that were chosen are read. */
  async settled() {
    await Promise.all(this.children().map((child) => child.settled()));
  }

  /** Find the field at a path, or the one that it lies in. */
  find(keys) {
    for (const child of this.children()) {
      const own = child.place.path;
      if (own.length <= keys.length && own.every((key, index) => String(key) === keys[index])) return child.find(keys);
    }
    return this;
  }

  /** Stand somewhere else, or under another name: rows are moved and removed. */
  stand(changes) {
    this.place = { ...this.place, ...changes };
    this.labelText.textContent = this.place.label;
    this.namePath();
  }

  namePath() {
    this.control.dataset.path = pathText(this.place.path);
  }

  show(message) {
    this.errorLine.textContent = message;
    this.errorLine.hidden = !message;
    this.element.classList.toggle("has-error", Boolean(message));
    this.describe(Boolean(message));
  }

  describe(isInvalid) {
    const described = [this.helpLine?.id, isInvalid && this.errorLine.id].filter(Boolean).join(" ");
    setOrRemove(this.control, "aria-describedby", described);
    if (this.control.matches("input, select, textarea, [role=radiogroup]")) {
      setOrRemove(this.control, "aria-invalid", isInvalid ? "true" : "");
    }
  }

  focus() {
    const focusable = [...this.element.querySelectorAll("input, select, textarea, button")];
    const first = focusable.find((one) => !one.disabled && one.tabIndex >= 0 && one.checkVisibility());
    (first ?? this.element).focus();
  }

  /** Put heading, help, body and error together. */
  put(element, heading, ...body) {
    element.append(...[heading, this.helpLine, ...body, this.errorLine].filter(Boolean));
    this.element = element;
    this.namePath();
    this.describe(false);
  }

  /** A field with one control. */
  frame(control) {
    control.id = this.id;
    if (this.place.isRequired) control.setAttribute("aria-required", "true");
    this.put(h("div", { class: "field" }), this.heading("label", { for: this.id }), control);
  }

  /** A field with several controls. */
  frameGroup(properties, ...body) {
    this.put(h("fieldset", { class: "field", tabindex: -1, ...properties }), this.heading("legend"), ...body);
  }

  heading(name, properties = {}) {
    const { isRequired, isSilent, mark } = this.place;
    const words = isSilent ? "" : mark ?? (isRequired ? "required" : "");
    return h(name, { class: isSilent ? "visually-hidden" : "field-label", ...properties },
      this.labelText, words && h("span", { class: "field-mark" }, ` ${words}`));
  }
}

/** "documents[0].name", as messages and tests name a field. */
export function pathText(path) {
  return path.reduce((text, key) => {
    if (typeof key === "number") return `${text}[${key}]`;
    return text ? `${text}.${key}` : key;
  }, "");
}

/** The place, where the help ends with `more`. */
export function withHelp(place, schema, ...more) {
  return { ...place, help: [place.help ?? schema.description, ...more].filter(Boolean).join(" ") };
}

/** What stands in ``double backticks`` is code, as in the agent's own description. */
function withCode(text) {
  return text.split(/``(.+?)``/).map((piece, index) => index % 2 ? h("code", {}, piece) : piece);
}

function setOrRemove(element, name, value) {
  if (value) element.setAttribute(name, value);
  else element.removeAttribute(name);
}
