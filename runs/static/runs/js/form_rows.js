// Fields with any number of parts: lists, dicts, several of several choices.
import { h } from "./dom.js";
import { countHelp, countProblem, textProblem } from "./form_checks.js";
import { ABSENT, Field, withHelp } from "./form_field.js";
import { fileButton } from "./form_files.js";
import { dictKeys, dictValues, isSame, plain, resolve } from "./schema.js";

/** Rows that are added and removed. */
class RowsField extends Field {
  constructor(form, schema, place) {
    super(form, schema, rowsPlace(schema, place));
    this.rows = [];
    this.list = h("ol", { class: "rows" });
    this.addButton = h("button", { type: "button", class: "button button-small", onclick: () => this.addByHand() },
      "Add", h("span", { class: "visually-hidden" }, ` to ${place.label}`));
    this.tools = h("div", { class: "buttons" }, this.addButton);
  }

  addByHand() {
    const row = this.add();
    this.form.changed();
    row.field.focus();
    return row;
  }

  add(initial) {
    const row = this.makeRow(this.rows.length, initial);
    this.rows.push(row);
    this.list.append(row.element);
    this.renumber();
    return row;
  }

  remove(row) {
    const index = this.rows.indexOf(row);
    this.rows.splice(index, 1);
    row.element.remove();
    this.renumber();
    this.form.changed();
    (this.rows[index] ?? this.rows.at(-1))?.removeButton.focus();
    if (!this.rows.length) this.addButton.focus();
  }

  renumber() {
    this.rows.forEach((row, index) => row.stand(index));
    this.addButton.disabled = this.isFull();
    this.list.hidden = !this.rows.length;
  }

  /** Most problems of the rows as a whole are that there are too few. */
  focus() {
    if (this.addButton.disabled) super.focus();
    else this.addButton.focus();
  }

  isFull() { return this.rows.length >= (this.schema.maxItems ?? this.schema.maxProperties ?? Infinity); }

  children() { return this.rows.map((row) => row.field); }

  /** Without rows it is left out, unless it is required or has a default. */
  get isLeftOut() { return !this.rows.length && this.isOpen; }

  read(isDraft) { return this.isLeftOut ? ABSENT : this.readRows(isDraft); }

  stand(changes) {
    super.stand(changes);
    this.renumber();
  }
}

/** The place, with the allowed count in its help. */
function rowsPlace(schema, place) {
  const mark = place.isRequired && schema.minItems ? "required" : "";
  return { ...withHelp(place, schema, countHelp(schema)), mark };
}

function iconButton(text, onclick) {
  const words = h("span", { class: "visually-hidden" });
  const button = h("button", { type: "button", class: "button button-small button-icon", onclick },
    h("span", { "aria-hidden": "true" }, text), words);
  return { button, name: (label) => { words.textContent = label; button.title = label; } };
}

/** A list: rows in an order that can be changed. */
export class ListField extends RowsField {
  constructor(form, schema, place, initial) {
    // The help of the rows stands once, above them.
    const item = resolve(schema.items, form.root);
    super(form, schema, withHelp(place, schema, item.description));
    const accept = item["x-accept"];
    if (accept) this.tools.append(fileButton(accept, place.label, true, (files) => this.takeFiles(files)));
    this.frameGroup({}, this.list, this.tools);
    for (const value of initial ?? this.firstValues()) this.add(value);
    this.renumber();
  }

  /** The rows that must be filled in, at most five. */
  firstValues() {
    return Array.from({ length: this.place.isRequired ? Math.min(this.schema.minItems ?? 0, 5) : 0 });
  }

  makeRow(index, initial) {
    const field = this.form.build(this.schema.items ?? {}, {
      path: [...this.place.path, index], label: this.labelOf(index), isRequired: true, isSilent: true, help: "",
      takeMore: (files) => this.takeFiles(files),
    }, initial);
    const up = iconButton("↑", () => this.move(row, -1));
    const down = iconButton("↓", () => this.move(row, 1));
    const away = iconButton("×", () => this.remove(row));
    const number = h("span", { class: "row-number", "aria-hidden": "true" });
    const row = {
      field, up: up.button, down: down.button, removeButton: away.button,
      element: h("li", { class: "row" }, number, h("div", { class: "row-field" }, field.element),
        h("div", { class: "row-tools" }, up.button, down.button, away.button)),
      stand: (at) => {
        const label = this.labelOf(at);
        field.stand({ path: [...this.place.path, at], label });
        number.textContent = at + 1;
        up.name(`Move ${label} up`);
        down.name(`Move ${label} down`);
        away.name(`Remove ${label}`);
        up.button.disabled = at === 0;
        down.button.disabled = at === this.rows.length - 1;
      },
    };
    return row;
  }

  labelOf(index) { return `${this.place.label} ${index + 1}`; }

  move(row, by) {
    const from = this.rows.indexOf(row);
    this.rows.splice(from, 1);
    this.rows.splice(from + by, 0, row);
    this.list.insertBefore(row.element, this.rows[from + by + 1]?.element ?? null);
    this.renumber();
    this.form.changed();
    const [pressed, other] = by < 0 ? [row.up, row.down] : [row.down, row.up];
    (pressed.disabled ? other : pressed).focus();
  }

  /** One row for each file; rows that are still empty come first. */
  takeFiles(files) {
    for (const file of files) {
      const empty = this.rows.find((row) => row.field.isEmpty());
      if (!empty && this.isFull()) break;
      (empty ?? this.add()).field.take([file]);
    }
    this.form.changed();
  }

  readRows(isDraft) {
    const values = this.children().map((field) => field.read(isDraft));
    return isDraft ? values.filter((value) => value !== ABSENT) : values;
  }

  problem() {
    if (this.isLeftOut) return "";
    if (this.schema.uniqueItems && this.hasTwins()) return "Each entry may be there only once.";
    return countProblem(this.schema, this.rows.length);
  }

  hasTwins() {
    const texts = this.children().map((field) => JSON.stringify(field.read()));
    return new Set(texts).size < texts.length;
  }
}

/** Free names with values. */
export class DictField extends RowsField {
  constructor(form, schema, place, initial) {
    super(form, schema, place);
    this.keySchema = dictKeys(schema, form.root);
    this.frameGroup({}, this.list, this.tools);
    for (const [key, value] of Object.entries(initial ?? {})) this.add({ key, value });
    this.renumber();
  }

  makeRow(index, initial = { key: "", value: undefined }) {
    const key = h("input", { class: "input", autocomplete: "off", dataset: { keyOf: this.control.dataset.path },
      oninput: () => row.stand(this.rows.indexOf(row)) });
    key.value = initial.key;
    const field = this.form.build(dictValues(this.schema), {
      path: [...this.place.path, initial.key], label: "", isRequired: true, isSilent: true,
    }, initial.value);
    const away = iconButton("×", () => this.remove(row));
    const row = {
      key, field, removeButton: away.button,
      element: h("li", { class: "row row-pair" }, key, h("div", { class: "row-field" }, field.element),
        h("div", { class: "row-tools" }, away.button)),
      stand: (at) => {
        const label = `${this.place.label} ${at + 1}`;
        key.setAttribute("aria-label", `${label}, name`);
        key.placeholder = "name";
        field.stand({ path: [...this.place.path, key.value], label: `${label}, value` });
        away.name(`Remove ${label}`);
      },
    };
    return row;
  }

  addByHand() {
    super.addByHand().key.focus();
  }

  readRows(isDraft) {
    // Not by assignment: "__proto__" is a name like any other.
    return Object.fromEntries(this.rows.map((row) => [row.key.value, row.field.read(isDraft)]));
  }

  problem() {
    const keys = this.rows.map((row) => row.key.value);
    if (keys.some((key) => key.trim() === "")) return "Each value needs a name.";
    if (new Set(keys).size < keys.length) return "Each name may be there only once.";
    const wrong = keys.find((key) => this.keyProblem(key));
    return wrong === undefined ? "" : `${wrong}: ${this.keyProblem(wrong)}`;
  }

  keyProblem(key) {
    const allowed = this.keySchema.enum;
    if (allowed && !allowed.includes(key)) return `One of these is expected: ${allowed.join(", ")}.`;
    return textProblem(this.keySchema, key);
  }
}

/** Several of several values: checkboxes, in the schema's order. */
export class ChoicesField extends Field {
  constructor(form, schema, place, initial = []) {
    super(form, schema, rowsPlace(schema, place));
    this.values = resolve(schema.items, form.root).enum;
    this.boxes = this.values.map((value) => {
      const box = h("input", { type: "checkbox" });
      box.checked = initial.some((one) => isSame(one, value));
      return box;
    });
    this.frameGroup({}, h("div", { class: "checks" }, this.boxes.map((box, index) =>
      h("label", { class: "check" }, box, plain(this.values[index])))));
  }

  read() {
    const chosen = this.values.filter((_, index) => this.boxes[index].checked);
    return !chosen.length && this.isOpen ? ABSENT : chosen;
  }

  problem() {
    const chosen = this.read();
    return chosen === ABSENT ? "" : countProblem(this.schema, chosen.length);
  }
}

/** Say whether checkboxes can show a list of choices: each once, in the schema's order. */
export function canBeTicked(schema, value, root) {
  const { enum: values } = resolve(schema.items, root);
  if (schema.minItems > values.length) return false;
  if (!Array.isArray(value)) return true;
  const ordered = values.filter((one) => value.some((other) => isSame(one, other)));
  return schema.uniqueItems ? ordered.length === value.length : isSame(ordered, value);
}
