// Fields made of other fields: objects and tuples.
import { h } from "./dom.js";
import { ABSENT, Field } from "./form_field.js";
import { isObject, kindOf, resolve, withoutNull } from "./schema.js";

/** An object with named parts. The outermost one is the form, without a frame. */
export class ObjectField extends Field {
  constructor(form, schema, place, initial = {}) {
    super(form, schema, { ...place, mark: "" });
    this.parts = Object.entries(schema.properties).map(([name, part]) => form.build(part, {
      path: [...place.path, name],
      label: labelOf(part, name, form.root),
      isRequired: (schema.required ?? []).includes(name),
      parent: this,
      isHidden: place.isVariant && isConstant(part, form.root),
    }, initial[name]));
    const body = h("div", { class: "fields" }, this.parts.map((part) => part.element));
    if (place.path.length) this.frameGroup({}, body);
    else this.element = h("div", {}, this.errorLine, body);
  }

  children() { return this.parts; }

  read(isDraft) {
    const pairs = this.parts.map((part) => [part.place.path.at(-1), part.read(isDraft)]);
    return Object.fromEntries(pairs.filter(([, value]) => value !== ABSENT));
  }

  stand(changes) {
    super.stand(changes);
    for (const part of this.parts) part.stand({ path: [...this.place.path, part.place.path.at(-1)] });
  }
}

function labelOf(schema, name, root) {
  // The title of a $ref is the model's; the part's own name says more.
  const own = schema.title ?? (schema.$ref ? "" : resolve(schema, root).title);
  return own || spoken(name);
}

/** "max_words" -> "Max words" */
function spoken(name) {
  const words = name.replaceAll("_", " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function isConstant(schema, root) {
  return kindOf(withoutNull(schema, root).schema, root) === "constant";
}

/** A list of fixed length. */
export class TupleField extends Field {
  constructor(form, schema, place, initial = []) {
    super(form, schema, { ...place, mark: "" });
    this.parts = schema.prefixItems.map((part, index) => form.build(part, {
      path: [...place.path, index], label: this.labelAt(index), isRequired: true,
    }, initial[index]));
    this.frameGroup({}, h("div", { class: "fields" }, this.parts.map((part) => part.element)));
  }

  labelAt(index) {
    return this.schema.prefixItems[index].title ?? `${this.place.label} ${index + 1}`;
  }

  children() { return this.parts; }

  read(isDraft) {
    const values = this.parts.map((part) => part.read(isDraft));
    return isDraft ? values.map((value) => value ?? null) : values;
  }

  stand(changes) {
    super.stand(changes);
    this.parts.forEach((part, index) => {
      part.stand({ path: [...this.place.path, index], label: this.labelAt(index) });
    });
  }
}

/** Say whether an object has parts that its schema allows but doesn't name: they have no field. */
export function hasExtraParts(schema, value) {
  return Boolean(schema.additionalProperties) && isObject(value)
    && Object.keys(value).some((name) => !(name in schema.properties));
}
