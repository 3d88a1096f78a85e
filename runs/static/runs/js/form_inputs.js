// Fields with one value: texts, numbers, dates, yes or no, one of several, JSON.
import { h } from "./dom.js";
import { numberProblem, parseNumber, textProblem } from "./form_checks.js";
import { ABSENT, Field, withHelp } from "./form_field.js";
import { constantOf, isSame, plain } from "./schema.js";

const MISSING = "Please fill this in.";
const NOT_CHOSEN = "Please choose one.";

/** The problem of an empty field. Its default, if it does not show, must not apply unseen. */
function emptyProblem({ isOpen, place }, { showsDefault = false } = {}) {
  return isOpen || (showsDefault && !place.isRequired) ? "" : MISSING;
}

/** The default, as the placeholder of an empty field. */
function defaultShown({ isNullable }, schema) {
  return isNullable || (schema.default ?? null) === null ? null : plain(schema.default);
}

/** A text, short or long. */
export class TextField extends Field {
  constructor(form, schema, place, initial = "") {
    super(form, schema, place);
    this.input = isLong(schema, initial) ? h("textarea", { class: "input", rows: 6 }) : shortInput(schema);
    this.input.value = initial;
    this.frame(this.input);
  }

  get control() { return this.input; }

  read(isDraft) {
    const text = this.input.value;
    if (isDraft && this.schema.format === "password") return ABSENT;
    return text !== "" || this.mayBeEmptyText() ? text : this.emptyValue;
  }

  problem() {
    const text = this.input.value;
    if (this.input.validity.badInput) return "This is not complete.";
    const isEmpty = this.place.isRequired ? text.trim() === "" : text === "" && !this.mayBeEmptyText();
    if (isEmpty) return emptyProblem(this);
    return textProblem(this.schema, text);
  }

  /** An emptied text is "" if the default was a text; a date, for example, never is. */
  mayBeEmptyText() {
    const { isNullable, isRequired } = this.place;
    const isPlain = !this.schema.format || this.schema.format === "textarea";
    return !isNullable && !isRequired && isPlain && typeof this.schema.default === "string";
  }
}

function isLong(schema, text) {
  if (schema.format && schema.format !== "textarea") return false;
  return schema.format === "textarea" || schema["x-accept"] || schema.maxLength > 200 || text.includes("\n");
}

const INPUT_TYPES = { email: "email", uri: "url", password: "password", date: "date", time: "time" };
const PLACEHOLDERS = { duration: "PT1H30M", uuid: "00000000-0000-0000-0000-000000000000" };

function shortInput(schema) {
  const type = INPUT_TYPES[schema.format] ?? "text";
  const isNarrow = ["date", "time"].includes(type);
  const hasSeconds = type === "time" && /^\d\d:\d\d:\d\d/.test(schema.default ?? "");
  return h("input", {
    class: isNarrow ? "input input-narrow" : "input", type,
    autocomplete: type === "password" ? "new-password" : "off",
    placeholder: schema.examples?.length ? plain(schema.examples[0]) : PLACEHOLDERS[schema.format],
    step: hasSeconds && 1,
  });
}

/** A number, in a text input: a number input drops what it can't read. */
export class NumberField extends Field {
  constructor(form, schema, place, initial) {
    super(form, schema, withHelp(place, schema, rangeHelp(schema)));
    this.input = h("input", {
      class: "input input-narrow", type: "text", autocomplete: "off", spellcheck: "false",
      inputmode: inputMode(schema), placeholder: defaultShown(place, schema),
    });
    this.input.value = initial ?? "";
    this.frame(this.input);
  }

  get control() { return this.input; }

  read(isDraft) {
    const value = this.isEmpty() ? this.emptyValue : parseNumber(this.input.value);
    return isDraft && Number.isNaN(value) ? ABSENT : value;
  }

  problem() {
    if (this.isEmpty()) return emptyProblem(this, { showsDefault: true });
    return numberProblem(this.schema, parseNumber(this.input.value));
  }

  isEmpty() { return this.input.value.trim() === ""; }
}

/** The phone's number pads have no minus. */
function inputMode(schema) {
  if (!((schema.minimum ?? schema.exclusiveMinimum) >= 0)) return null;
  return schema.type === "integer" ? "numeric" : "decimal";
}

function rangeHelp({ minimum, maximum }) {
  return minimum !== undefined && maximum !== undefined ? `${minimum} to ${maximum}.` : "";
}

/** An instant, typed in the reader's time zone and sent with its offset. */
export class InstantField extends Field {
  constructor(form, schema, place, initial = "") {
    super(form, schema, withHelp(place, schema, "In your own time zone."));
    this.input = h("input", { class: "input input-narrow", type: "datetime-local", step: hasSeconds(initial) && 1 });
    this.input.value = localText(initial);
    // Unless the reader changes it, it is sent back as it came: the input has no fractions or offsets.
    this.shown = { text: this.input.value, value: initial };
    this.frame(this.input);
  }

  get control() { return this.input; }

  read() {
    const text = this.input.value;
    if (text === "") return this.emptyValue;
    return text === this.shown.text ? this.shown.value : withOffset(text);
  }

  problem() {
    if (this.input.validity.badInput) return "This is not complete.";
    return this.input.value === "" ? emptyProblem(this) : "";
  }
}

function hasSeconds(iso) {
  return iso !== "" && new Date(iso).getSeconds() > 0;
}

function localText(iso) {
  const at = new Date(iso);
  if (iso === "" || Number.isNaN(at.getTime())) return "";
  const local = new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString();
  return local.slice(0, hasSeconds(iso) ? 19 : 16);
}

function withOffset(text) {
  const minutes = -new Date(text).getTimezoneOffset();
  const two = (number) => String(Math.floor(Math.abs(number))).padStart(2, "0");
  return `${text}${minutes < 0 ? "-" : "+"}${two(minutes / 60)}:${two(minutes % 60)}`;
}

/** Yes or no. */
export class BooleanField extends Field {
  constructor(form, schema, place, initial = false) {
    super(form, schema, place);
    this.input = h("input", { type: "checkbox", id: this.id });
    this.input.checked = initial;
    this.put(h("div", { class: "field" }), h("label", { class: "check" }, this.input, this.labelText));
  }

  get control() { return this.input; }

  read() { return this.input.checked; }
}

const MOST_RADIOS = 4;

/** One of several values of any type: a few as radio buttons, more as a select. */
export class ChoiceField extends Field {
  constructor(form, schema, place, initial) {
    super(form, schema, place);
    this.values = schema.enum;
    const chosen = this.values.findIndex((value) => isSame(value, initial));
    if (this.values.length <= MOST_RADIOS && !this.isOpen) this.drawRadios(chosen);
    else this.drawSelect(chosen);
  }

  drawRadios(chosen) {
    this.inputs = this.values.map((_, index) => h("input", { type: "radio", name: this.id, value: index, checked: index === chosen }));
    this.frameGroup({ role: "radiogroup", "aria-required": this.place.isRequired && "true" },
      h("div", { class: "checks" }, this.inputs.map((input, index) =>
        h("label", { class: "check" }, input, wordsOf(this.values[index], this.schema)))));
  }

  drawSelect(chosen) {
    this.select = h("select", { class: "input input-narrow" },
      (this.isOpen || chosen < 0) && h("option", { value: "" }, this.isOpen ? "Not set" : "Choose..."),
      this.values.map((value, index) => h("option", { value: index, selected: index === chosen }, wordsOf(value, this.schema))));
    this.frame(this.select);
  }

  get control() { return this.select ?? this.element; }

  read() {
    const chosen = this.chosen();
    return chosen === "" ? this.emptyValue : this.values[Number(chosen)];
  }

  chosen() {
    return this.select ? this.select.value : this.inputs.find((input) => input.checked)?.value ?? "";
  }

  problem() {
    return this.chosen() === "" && this.place.isRequired && !this.place.isNullable ? NOT_CHOSEN : "";
  }
}

function wordsOf(value, schema) {
  if (schema.type === "boolean") return value ? "Yes" : "No";
  return value === "" ? "(empty)" : plain(value);
}

/** A constant: shown, because it is sent. */
export class ConstantField extends Field {
  constructor(form, schema, place) {
    super(form, schema, place);
    this.put(h("div", { class: "field", hidden: place.isHidden }), h("span", { class: "field-label" }, this.labelText),
      h("code", { class: "field-constant" }, plain(constantOf(schema))));
  }

  read() { return constantOf(this.schema); }
}

/** Any value that no other field can draw: typed as JSON. */
export class JsonField extends Field {
  constructor(form, schema, place, initial) {
    super(form, schema, withHelp(place, schema, "As JSON."));
    this.input = h("textarea", { class: "input mono", rows: 4, spellcheck: "false", autocapitalize: "off",
      placeholder: defaultShown(place, schema) });
    const isNothing = initial === undefined || initial === null && !place.isRequired;
    this.input.value = isNothing ? "" : JSON.stringify(initial, null, 2);
    this.frame(this.input);
  }

  get control() { return this.input; }

  read() {
    return this.input.value.trim() === "" ? this.emptyValue : parsed(this.input.value).value;
  }

  problem() {
    if (this.input.value.trim() === "") return emptyProblem(this, { showsDefault: true });
    return parsed(this.input.value).problem;
  }
}

function parsed(text) {
  try {
    return { value: JSON.parse(text), problem: "" };
  } catch {
    return { value: ABSENT, problem: 'This is not JSON. Texts stand in quotes: "text", 12, [1, 2], {"name": "value"}.' };
  }
}
