// What a JSON Schema (2020-12, as pydantic writes it) asks for. Nothing here knows the page.

/** Follow $ref, and an allOf of one; keys next to them win. A missing schema is `{}`. */
export function resolve(schema, root) {
  let resolved = asObject(schema);
  for (let steps = 0; steps < 50; steps++) {
    if (typeof resolved.$ref === "string") {
      const { $ref, ...others } = resolved;
      resolved = { ...asObject(lookUp($ref, root)), ...others };
    } else if (resolved.allOf?.length === 1) {
      const { allOf, ...others } = resolved;
      resolved = { ...asObject(allOf[0]), ...others };
    } else {
      return resolved;
    }
  }
  return {};
}

/** Resolve a schema and take its null out: {schema, isNullable}. */
export function withoutNull(schema, root) {
  const whole = resolve(schema, root);
  const variants = variantsOf(whole);
  if (variants) {
    const others = variants.filter((variant) => resolve(variant, root).type !== "null");
    if (others.length === variants.length) return { schema: whole, isNullable: false };
    const { anyOf, oneOf, ...about } = whole;
    if (others.length === 1) return { schema: { ...resolve(others[0], root), ...about }, isNullable: true };
    return { schema: { ...about, anyOf: others }, isNullable: true };
  }
  if (Array.isArray(whole.type)) return withoutNullType(whole);
  if (whole.enum?.includes(null)) {
    return { schema: { ...whole, enum: whole.enum.filter((one) => one !== null) }, isNullable: true };
  }
  return { schema: whole, isNullable: false };
}

function withoutNullType(schema) {
  const types = schema.type.filter((type) => type !== "null");
  const isNullable = types.length < schema.type.length;
  if (types.length === 1) return { schema: { ...schema, type: types[0] }, isNullable };
  const { type, ...about } = schema;
  return { schema: { ...about, anyOf: types.map((one) => ({ type: one })) }, isNullable };
}

/** Say how a resolved schema without null is drawn; "json": without a shape, typed as JSON. */
export function kindOf(schema, root) {
  if ("const" in schema || schema.type === "null") return "constant";
  if (Array.isArray(schema.enum)) return "choice";
  if (variantsOf(schema)) return "union";
  switch (schema.type) {
    case "string": return "text";
    case "integer":
    case "number": return "number";
    case "boolean": return "boolean";
    case "array": return kindOfArray(schema, root);
    case "object": return kindOfObject(schema, root);
    default: return "json";
  }
}

function kindOfArray(schema, root) {
  if (schema.prefixItems) return schema.maxItems === schema.prefixItems.length ? "tuple" : "json";
  const item = withoutNull(schema.items, root);
  const kind = kindOf(item.schema, root);
  if (kind === "choice" && !item.isNullable) return "choices";
  return kind === "json" ? "json" : "list";
}

function kindOfObject(schema, root) {
  if (schema.properties) return "object";
  const values = dictValues(schema);
  return values && kindOf(withoutNull(values, root).schema, root) !== "json" ? "dict" : "json";
}

/** The schema of a dict's values, or null. */
export function dictValues(schema) {
  const patterns = Object.values(schema.patternProperties ?? {});
  if (patterns.length === 1) return patterns[0];
  return typeof schema.additionalProperties === "object" ? schema.additionalProperties : null;
}

/** The schema of a dict's keys. */
export function dictKeys(schema, root) {
  const [pattern] = Object.keys(schema.patternProperties ?? {});
  return { type: "string", ...(pattern ? { pattern } : {}), ...resolve(schema.propertyNames ?? {}, root) };
}

/** The branches of a union, or null. */
export function variantsOf(schema) {
  return schema.anyOf ?? schema.oneOf ?? null;
}

/** The value of a constant; JSON Schema has `null` as a type of its own. */
export function constantOf(schema) {
  return "const" in schema ? schema.const : null;
}

/** Name a resolved schema, for a reader who chooses between several. */
export function nameOf(schema, root) {
  if (schema.title) return schema.title;
  const kind = kindOf(schema, root);
  if (kind === "constant") return plain(constantOf(schema));
  if (kind === "number") return schema.type === "integer" ? "Whole number" : "Number";
  if (kind === "text") return { date: "Date", "date-time": "Date and time", time: "Time" }[schema.format] ?? "Text";
  return {
    boolean: "Yes or no", choice: "One of several", list: "List", choices: "List", tuple: "List",
    object: "Group", dict: "Names and values", union: "One of several",
  }[kind] ?? "JSON";
}

/** Show a value in one line: texts as they are, anything else as JSON. */
export function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Say whether a value has the shape of a schema; its limits are not checked. */
export function fits(schema, value, root) {
  const bare = withoutNull(schema, root);
  if (value === null && bare.isNullable) return true;
  return fitsBare(bare.schema, value, root);
}

function fitsBare(schema, value, root) {
  switch (kindOf(schema, root)) {
    case "constant": return isSame(constantOf(schema), value);
    case "choice": return schema.enum.some((one) => isSame(one, value));
    case "union": return variantsOf(schema).some((variant) => fits(variant, value, root));
    case "text": return typeof value === "string";
    case "number": return typeof value === "number" && (schema.type !== "integer" || Number.isInteger(value));
    case "boolean": return typeof value === "boolean";
    case "tuple": return Array.isArray(value) && value.length === schema.prefixItems.length;
    case "list": return Array.isArray(value) && value.every((item) => fits(schema.items, item, root));
    case "choices": return Array.isArray(value);
    case "object": return isObject(value) && fitsObject(schema, value, root);
    case "dict": return isObject(value);
    default: return true;
  }
}

function fitsObject(schema, value, root) {
  const hasAll = (schema.required ?? []).every((name) => name in value);
  const known = Object.entries(schema.properties);
  return hasAll && known.every(([name, one]) => !(name in value) || fits(one, value[name], root));
}

export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Equal as JSON. */
export function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

function asObject(schema) {
  return isObject(schema) ? schema : {};
}

function lookUp(reference, root) {
  if (!reference.startsWith("#")) return null;
  const steps = decodeURIComponent(reference.slice(1)).split("/").slice(1);
  return steps.reduce(
    (found, step) => found?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], root);
}
