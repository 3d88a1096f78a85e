// Choose the field for a part of the schema: the one module that knows all kinds.
import { OptionalField, UnionField } from "./form_envelopes.js";
import { pathText } from "./form_field.js";
import { DocumentField } from "./form_files.js";
import { ObjectField, TupleField, hasExtraParts } from "./form_groups.js";
import {
  BooleanField, ChoiceField, ConstantField, InstantField, JsonField, NumberField, TextField,
} from "./form_inputs.js";
import { ChoicesField, DictField, ListField, canBeTicked } from "./form_rows.js";
import { fits, kindOf, withoutNull } from "./schema.js";

/** A schema may nest without end; deeper parts are typed as JSON. */
const MOST_LEVELS = 12;

const KINDS = {
  boolean: BooleanField, choice: ChoiceField, choices: ChoicesField, constant: ConstantField, dict: DictField,
  json: JsonField, list: ListField, number: NumberField, object: ObjectField, tuple: TupleField, union: UnionField,
};
const GROUPS = new Set(["choices", "dict", "list", "object", "tuple"]);

/** Make a field. A given value that doesn't fit goes to `form.leftOut`, and the default is used. */
export function build(form, rawSchema, place, given) {
  const { schema, isNullable } = withoutNull(rawSchema, form.root);
  if (given !== undefined && !fits(rawSchema, given, form.root)) {
    form.leftOut.push(place.label || pathText(place.path));
    given = undefined;
  }
  const initial = given !== undefined ? given : schema.default;
  const whole = { ...place, isNullable };
  if (needsTicking(kindOf(schema, form.root), schema, whole)) return new OptionalField(form, schema, whole, initial);
  return buildBare(form, schema, whole, initial ?? undefined);
}

/** Say whether a box decides if a group is there. Lists and dicts without a row need none. */
function needsTicking(kind, schema, { isNullable, isRequired, path }) {
  if (!GROUPS.has(kind) || path.length === 0) return false;
  return isNullable || (["object", "tuple"].includes(kind) && !isRequired && schema.default === undefined);
}

/** Make the field of a resolved schema without its null. */
export function buildBare(form, schema, place, initial) {
  const kind = place.path.length > MOST_LEVELS ? "json" : drawnAs(form, schema, place, initial);
  if (kind === "text") return buildText(form, schema, place, initial);
  if (kind === "openBoolean") return new ChoiceField(form, { ...schema, enum: [true, false] }, place, initial);
  return new KINDS[kind](form, schema, place, initial);
}

/** The kind of field: the value or the place may ask for another than the schema does. */
function drawnAs(form, schema, place, initial) {
  const kind = kindOf(schema, form.root);
  if (kind === "object" && hasExtraParts(schema, initial)) return "json";
  if (kind === "choices" && !canBeTicked(schema, initial, form.root)) return "list";
  if (kind === "boolean" && (place.isNullable || (!place.isRequired && schema.default === undefined))) return "openBoolean";
  return kind;
}

function buildText(form, schema, place, initial) {
  if (schema["x-accept"]) return new DocumentField(form, schema, place, initial);
  if (schema.format === "date-time") return new InstantField(form, schema, place, initial);
  return new TextField(form, schema, place, initial);
}
