// One place of the form: label, help, control, and an error message.
import { h } from "./dom.js";

/** The value of a field that is left out of the input. */
export const ABSENT = undefined;

let lastId = 0;

/**
 * The base of all fields. `form` is the SchemaForm, `schema` is resolved and without its null,
 * `place` says where the field is:
 *   path        the keys that lead to it, ["documents", 0]
 *   label       its name for a reader; `mark` replaces the "required" after it
 *   isRequired  it can't be left out
 *   isNullable  empty means null
 *   parent      the field that it is a named part of
 *   isSilent    the label is for screen readers only: something else shows it
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

  /**
   * The JSON value, or ABSENT; valid only while `problems()` is empty. A draft may be read at any
   * time, and leaves files and passwords out.
   */
  read(_isDraft) { return ABSENT; }

  /** What is wrong with this field itself, or "". */
  problem() { return ""; }

  /** The fields inside. */
  children() { return []; }

  /** The element with data-path, which help and error describe. */
  get control() { return this.element; }

  /** Its label after those of its parents: "Person: Name". */
  get fullName() {
    const { label, parent } = this.place;
    return parent?.place.label ? `${parent.fullName}: ${label}` : label;
  }

  /** Whether it may stay empty. */
  get isOpen() {
    return this.place.isNullable || (!this.place.isRequired && this.schema.default === undefined);
  }

  /** The value of an empty field. */
  get emptyValue() {
    const { isNullable, isRequired } = this.place;
    return isNullable && (isRequired || (this.schema.default ?? null) !== null) ? null : ABSENT;
  }

  problems() {
    const message = this.problem();
    const own = message ? [{ field: this, message }] : [];
    return [...own, ...this.children().flatMap((child) => child.problems())];
  }

  /** Wait until chosen files are read. */
  async settled() {
    await Promise.all(this.children().map((child) => child.settled()));
  }

  /** Find the field at a path, or the nearest one around it. */
  find(keys) {
    for (const child of this.children()) {
      const own = child.place.path;
      if (own.length <= keys.length && own.every((key, index) => String(key) === keys[index])) return child.find(keys);
    }
    return this;
  }

  /** Change path or label: rows are moved and removed. */
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

/** "documents[0].name" */
export function pathText(path) {
  return path.reduce((text, key) => {
    if (typeof key === "number") return `${text}[${key}]`;
    return text ? `${text}.${key}` : key;
  }, "");
}

/** The place, with `more` at the end of its help. */
export function withHelp(place, schema, ...more) {
  return { ...place, help: [place.help ?? schema.description, ...more].filter(Boolean).join(" ") };
}

/** Text in ``double backticks`` is code, as in the agent's description. */
function withCode(text) {
  return text.split(/``(.+?)``/).map((piece, index) => index % 2 ? h("code", {}, piece) : piece);
}

function setOrRemove(element, name, value) {
  if (value) element.setAttribute(name, value);
  else element.removeAttribute(name);
}
