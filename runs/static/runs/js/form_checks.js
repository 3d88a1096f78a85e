// What is wrong with a value, in a sentence, or "". The server checks again: what can't be checked
// here in the same way (a pattern in another dialect) passes.

const EMAIL = /^[^\s@]+@[^\s@]+\.[^\s@]+$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const DURATION = /^[+-]?P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)$/;

export function textProblem(schema, text) {
  const { minLength = 0, maxLength = Infinity } = schema;
  if (text.includes("\0")) return "NUL characters can't be kept; is this a text?";
  // Counting characters is slow; a text never has more of them than UTF-16 units.
  const length = text.length > maxLength || text.length < 2 * minLength ? [...text].length : text.length;
  if (length < minLength) return `At least ${count(minLength, "character")}, please.`;
  if (length > maxLength) return `At most ${count(maxLength, "character")}, please; these are ${length}.`;
  if (schema.pattern && !matches(schema.pattern, text)) return `This must match ${schema.pattern}`;
  return formatProblem(schema.format, text);
}

function formatProblem(format, text) {
  switch (format) {
    case "email": return EMAIL.test(text) ? "" : "An e-mail address is expected, such as name@example.org.";
    case "uri": return URL.canParse(text) ? "" : "An address is expected, such as https://example.org/.";
    case "uuid": return UUID.test(text) ? "" : "A UUID is expected.";
    case "duration": return isDuration(text) ? "" : "A duration is expected, such as PT1H30M or P2D.";
    default: return "";
  }
}

function isDuration(text) {
  // pydantic reads its own writing as well: [days,] hours:minutes:seconds
  return DURATION.test(text) || /^[+-]?(\d+ ?d(ays?)?,? ?)?\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$/.test(text);
}

function matches(pattern, text) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true;
  }
}

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** Read a number as it was typed; NaN if it is none. */
export function parseNumber(text) {
  return NUMBER.test(text.trim()) ? Number(text) : NaN;
}

export function numberProblem(schema, number) {
  if (Number.isNaN(number)) return schema.type === "integer" ? "A whole number is expected." : "A number is expected, such as 1.5.";
  if (schema.type === "integer" && !Number.isInteger(number)) return "A whole number is expected.";
  if (!Number.isFinite(number)) return "This number is too large.";
  if (schema.type === "integer" && !Number.isSafeInteger(number)) return "This number is too large to be sent exactly.";
  return rangeProblem(schema, number);
}

function rangeProblem(schema, number) {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  if (number < minimum || number > maximum) return betweenWords(minimum, maximum);
  if (number <= exclusiveMinimum) return `More than ${exclusiveMinimum}, please.`;
  if (number >= exclusiveMaximum) return `Less than ${exclusiveMaximum}, please.`;
  if (multipleOf && !isMultiple(number, multipleOf)) return `A multiple of ${multipleOf}, please.`;
  return "";
}

function betweenWords(minimum, maximum) {
  if (maximum === undefined) return `${minimum} or more, please.`;
  if (minimum === undefined) return `${maximum} or less, please.`;
  return `Between ${minimum} and ${maximum}, please.`;
}

function isMultiple(number, step) {
  const steps = number / step;
  return Math.abs(steps - Math.round(steps)) < 1e-9 * Math.max(1, Math.abs(steps));
}

export function countProblem(schema, length) {
  const { minItems = 0, maxItems = Infinity } = schema;
  if (length < minItems) return `At least ${count(minItems, "entry", "entries")}, please.`;
  if (length > maxItems) return `At most ${count(maxItems, "entry", "entries")}, please.`;
  return "";
}

export function countHelp({ minItems, maxItems }) {
  if (minItems && maxItems) return minItems === maxItems ? `${count(minItems, "entry", "entries")}.` : `${minItems} to ${maxItems} entries.`;
  if (minItems > 1) return `At least ${minItems} entries.`;
  return maxItems ? `At most ${count(maxItems, "entry", "entries")}.` : "";
}

/** "2.3 MB"; in units of 1024, as limits are set. */
export function size(bytes) {
  if (bytes < 1024) return count(bytes, "byte");
  if (bytes < 1024 * 1024) return `${Math.round(bytes / 1024)} kB`;
  return `${Number((bytes / 1024 / 1024).toFixed(1))} MB`;
}

function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
