// Fields around another field at the same path: its shape, or whether it is there. The field inside
// is built on demand, because a schema may refer to itself.
import { h } from "./dom.js";
import { Field } from "./form_field.js";
import { fits, nameOf, resolve, variantsOf } from "./schema.js";

class Envelope extends Field {
  inner = null;
  body = h("div", { class: "fields" });

  hold(inner) {
    this.inner = inner;
    this.body.replaceChildren(...inner ? [inner.element] : []);
    this.namePath();
  }

  children() { return this.inner ? [this.inner] : []; }

  read(isDraft) { return this.inner ? this.inner.read(isDraft) : this.emptyValue; }

  find(keys) { return this.inner ? this.inner.find(keys) : this; }

  stand(changes) {
    super.stand(changes);
    this.inner?.stand({ path: this.place.path });
  }

  namePath() {
    if (this.inner) delete this.control.dataset.path;
    else super.namePath();
  }
}

/** One of several shapes: a select, and the field of the chosen shape. */
export class UnionField extends Envelope {
  constructor(form, schema, place, initial) {
    super(form, schema, place);
    this.variants = variantsOf(schema).map((variant) => resolve(variant, form.root));
    this.select = h("select", {
      class: "input input-narrow", id: this.id, "aria-required": place.isRequired && "true",
      onchange: () => this.choose(),
    },
    h("option", { value: "" }, this.mayBeLeftOut() ? "Not set" : "Choose..."),
    this.variants.map((_, index) => h("option", { value: index }, this.nameOf(index))));
    this.put(h("div", { class: "field field-union" }), this.heading("label", { for: this.id }), this.select);
    this.element.append(this.body);
    const isGiven = (initial ?? null) !== null;
    const index = isGiven ? this.variants.findIndex((variant) => fits(variant, initial, form.root)) : -1;
    this.select.value = index < 0 ? "" : index;
    this.choose(initial);
  }

  choose(initial) {
    const index = this.select.value;
    this.hold(index === "" ? null : this.form.build(this.variants[index], {
      path: this.place.path, label: `${this.place.label}: ${this.nameOf(Number(index))}`,
      isRequired: true, isVariant: true, isSilent: true,
    }, initial));
  }

  nameOf(index) {
    const names = this.variants.map((variant) => nameOf(variant, this.form.root));
    const isUnique = names.filter((name) => name === names[index]).length === 1;
    return isUnique ? names[index] : `${names[index]} (${index + 1})`;
  }

  mayBeLeftOut() { return this.place.isNullable || !this.place.isRequired; }

  get control() { return this.select; }

  problem() { return this.inner || this.mayBeLeftOut() ? "" : "Please choose one."; }
}

/** A group that may be missing: a checkbox, and the group. */
export class OptionalField extends Envelope {
  constructor(form, schema, place, initial) {
    super(form, schema, place);
    this.input = h("input", { type: "checkbox", id: this.id, onchange: () => this.toggle() });
    this.input.checked = (initial ?? null) !== null;
    this.put(h("div", { class: "field field-optional" }),
      h("label", { class: "check field-label" }, this.input, this.labelText));
    this.element.append(this.body);
    this.toggle(initial);
  }

  toggle(initial) {
    const { path, label } = this.place;
    this.hold(this.input.checked
      ? this.form.buildBare(this.schema, { path, label, isRequired: true, isSilent: true, help: "" }, initial)
      : null);
  }

  get control() { return this.input; }
}
