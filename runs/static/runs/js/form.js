// A form made from a JSON Schema: its values, and what is wrong with them.
import { h } from "./dom.js";
import { build, buildBare } from "./form_build.js";
import { resolve } from "./schema.js";

const MOST_LISTED = 6;

/**
 * `schema` is that of an object. `onchange` is called after each change. `element` holds the
 * fields, `messages` the list of problems.
 */
export class SchemaForm {
  constructor(schema, { initial, maxBytes = Infinity, onchange = () => {} } = {}) {
    this.root = schema;
    this.maxBytes = maxBytes;
    this.leftOut = [];  // labels of initial values that no longer fit
    this.onchange = onchange;
    this.wasRefused = false;
    this.summarised = "";
    this.serverMessages = new Map();  // field -> message, until that field is changed
    this.fields = this.buildRoot(initial);
    this.element = this.fields.element;
    this.messages = h("div", { class: "form-messages", role: "alert" });
    this.element.addEventListener("input", (event) => this.changed(event.target));
    this.element.addEventListener("change", (event) => this.changed(event.target));
  }

  buildRoot(initial) {
    const schema = { properties: {}, ...resolve(this.root, this.root) };
    for (const name of Object.keys(initial ?? {})) {
      if (!(name in schema.properties)) this.leftOut.push(name);
    }
    // Each part is checked by itself: one that no longer fits should not lose the others.
    return buildBare(this, { ...schema, type: "object", additionalProperties: false }, {
      path: [], label: "", isRequired: true,
    }, initial ?? undefined);
  }

  // What fields ask for.

  build(schema, place, initial) { return build(this, schema, place, initial); }

  buildBare(schema, place, initial) { return buildBare(this, schema, place, initial); }

  /** A value has changed; `target` is its element, if there is one. */
  changed(target = null) {
    for (const field of this.serverMessages.keys()) {
      if (!target || field.element.contains(target)) this.serverMessages.delete(field);
    }
    if (this.wasRefused) this.showProblems();
    this.onchange();
  }

  // What the page asks for.

  read(isDraft) { return this.fields.read(isDraft); }

  /** Files are too large to be part of a draft. */
  hasFiles() { return this.everyField().some((field) => field.file); }

  get isEmpty() { return this.fields.children().length === 0; }

  /** Show all problems, and return whether there are none. If there are, each change checks again. */
  async check() {
    await this.fields.settled();
    this.serverMessages.clear();
    const problems = this.fields.problems();
    this.wasRefused = problems.length > 0;
    this.showProblems();
    problems[0]?.field.focus();
    return problems.length === 0;
  }

  /** Show the server's messages ({"input.documents.0": ["..."]}); return those without a field. */
  refuse(messages) {
    const homeless = [];
    for (const [path, texts] of Object.entries(messages)) {
      const keys = keysOf(path);
      const field = keys && this.fields.find(keys);
      if (!field || field === this.fields) homeless.push(...texts);
      else this.serverMessages.set(field, [this.serverMessages.get(field), ...texts].filter(Boolean).join(" "));
    }
    this.wasRefused = true;
    this.showProblems();
    const first = this.everyField().find((field) => this.serverMessages.has(field));
    first?.focus();
    return homeless;
  }

  showProblems() {
    const found = new Map(this.fields.problems().map(({ field, message }) => [field, message]));
    for (const [field, message] of this.serverMessages) found.set(field, found.get(field) ?? message);
    const everyField = this.everyField();
    for (const field of everyField) field.show(found.get(field) ?? "");
    this.summarise(everyField.filter((field) => found.has(field)), found);
  }

  /** List several messages: some may be out of sight. */
  summarise(fields, found) {
    const text = fields.map((field) => field.fullName + found.get(field)).join();
    if (text === this.summarised) return;  // a screen reader reads each change
    this.summarised = text;
    this.messages.replaceChildren(...fields.length < 2 ? [] : [drawSummary(fields, found)]);
  }

  everyField(field = this.fields) {
    return [field, ...field.children().flatMap((child) => this.everyField(child))];
  }
}

function drawSummary(fields, found) {
  const lines = fields.slice(0, MOST_LISTED).map((field) => h("li", {},
    h("button", { type: "button", class: "link", onclick: () => field.focus() }, field.fullName),
    ` ${found.get(field)}`));
  const more = fields.length - lines.length;
  return h("div", { class: "notice notice-bad form-summary" },
    h("p", {}, h("strong", {}, `${fields.length} fields need another look`)),
    h("ul", {}, lines, more > 0 && h("li", {}, `and ${more} more`)));
}

/** The keys of a path below "input", or null. */
function keysOf(path) {
  const keys = path.replaceAll("[", ".").replaceAll("]", "").split(".");
  return keys[0] === "input" ? keys.slice(1) : null;
}
