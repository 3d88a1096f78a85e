// A text that may come as a file, chosen or dropped. A text file goes into the text area; any other
// (a PDF) is sent as a data: URL, and its name and size are shown.
import { h } from "./dom.js";
import { size, textProblem } from "./form_checks.js";
import { ABSENT } from "./form_field.js";
import { TextField } from "./form_inputs.js";

const DATA_URL = /^data:([\w.+-]+\/[\w.+-]+)(?:;[\w.+=-]+)*;base64,/i;
/** Typing is slow in a text area with more. */
const MOST_TYPED = 200_000;

const TEXT_NAMES = /\.(txt|md|markdown|rst|csv|tsv|json|jsonl|xml|html?|ya?ml|toml|ini|log|tex|srt|py|js|ts|css|sql|sh)$/i;
const TEXT_TYPES = /^text\/|^application\/(.+\+)?(json|xml|yaml|toml)$/;

/** A long text with a file chooser. */
export class DocumentField extends TextField {
  constructor(form, schema, place, initial = "") {
    const isFile = DATA_URL.test(initial) || initial.length > MOST_TYPED;
    super(form, schema, place, isFile ? "" : initial);
    this.accept = schema["x-accept"];
    this.reading = null;
    this.file = null;
    this.refusal = "";  // why the last file was not taken
    this.chip = h("div", { class: "file-place" });
    this.input.after(this.chip, h("div", { class: "buttons file-tools" },
      fileButton(this.accept, place.label, false, (files) => this.take(files)),
      h("span", { class: "field-help" }, "or drop it here")));
    this.input.addEventListener("input", () => { if (this.refusal) this.refuse(""); });
    this.listenForDrops();
    if (isFile) this.hold({ name: kindOfFile(initial), bytes: bytesOf(initial), value: initial });
  }

  listenForDrops() {
    const over = (isOver) => this.element.classList.toggle("is-over", isOver);
    this.element.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
    this.element.addEventListener("dragleave", () => over(false));
    this.element.addEventListener("drop", (event) => {
      over(false);
      if (!event.dataTransfer.files.length) return;  // a piece of text: the text area takes it
      event.preventDefault();
      this.take([...event.dataTransfer.files]);
    });
  }

  /** Take the first file; the list around this field takes the others. */
  take([file, ...others]) {
    if (others.length) this.place.takeMore?.(others);
    this.refusal = "";
    this.reading = this.readFile(file)
      .catch(() => this.refuse(`${file.name} can't be read.`))
      .then(() => { this.reading = null; this.form.changed(); });
  }

  async readFile(file) {
    if (!isAccepted(file, this.accept)) return this.refuse(`${file.name} is not of a kind that is read here (${this.accept}).`);
    if (file.size > this.form.maxBytes) return this.refuse(tooLarge(file, this.form.maxBytes));
    const text = await textOf(file);
    if (text === null) return this.holdBinary(file);
    if (text.length > MOST_TYPED) return this.hold({ name: file.name, bytes: file.size, value: text });
    this.release();
    this.input.value = text;
    return this.show("");
  }

  async holdBinary(file) {
    const base64Bytes = file.size * 4 / 3;
    if (base64Bytes > this.form.maxBytes) return this.refuse(tooLarge(file, this.form.maxBytes));
    return this.hold({ name: file.name, bytes: file.size, value: await asDataUrl(file) });
  }

  hold(file) {
    this.file = file;
    this.chip.replaceChildren(h("span", { class: "file" },
      h("span", { class: "file-name" }, file.name), h("span", { class: "file-size" }, ` · ${size(file.bytes)}`),
      h("button", { type: "button", class: "file-remove", "aria-label": `Remove ${file.name}`, title: `Remove ${file.name}`,
        onclick: () => { this.release(); this.form.changed(); this.input.focus(); } }, "×")));
    this.input.hidden = true;
    this.show("");
  }

  release() {
    this.file = null;
    this.chip.replaceChildren();
    this.input.hidden = false;
  }

  refuse(message) {
    this.refusal = message;
    this.show("");
  }

  show(message) { super.show(message || this.refusal); }

  isEmpty() { return !this.file && !this.reading && this.input.value === ""; }

  read(isDraft) {
    if (this.file) return isDraft ? ABSENT : this.file.value;
    return super.read(isDraft);
  }

  problem() { return this.file ? textProblem({ ...this.schema, format: "" }, this.file.value) : super.problem(); }

  async settled() { await this.reading; }
}

/** A button that opens the browser's file chooser. */
export function fileButton(accept, label, isMultiple, onfiles) {
  const input = h("input", { type: "file", accept, multiple: isMultiple, hidden: true, tabindex: -1, "aria-hidden": "true",
    onchange: () => { onfiles([...input.files]); input.value = ""; } });
  return h("span", {}, input,
    h("button", { type: "button", class: "button button-small", onclick: () => input.click() },
      isMultiple ? "Choose files" : "Choose a file", h("span", { class: "visually-hidden" }, ` for ${label}`)));
}

/** Say whether an `accept` list names a file's kind, by the rules of the browser's chooser. */
function isAccepted(file, accept) {
  const kinds = accept.split(",").map((kind) => kind.trim().toLowerCase()).filter(Boolean);
  const type = typeOf(file);
  return kinds.some((kind) => {
    if (kind.startsWith(".")) return file.name.toLowerCase().endsWith(kind);
    if (kind.endsWith("/*")) return type.startsWith(kind.slice(0, -1));
    return kind === type || kind === "*";
  });
}

/** The file's type, by its name where the system does not know it. */
function typeOf(file) {
  if (file.type) return file.type.toLowerCase();
  if (/\.pdf$/i.test(file.name)) return "application/pdf";
  return TEXT_NAMES.test(file.name) ? "text/plain" : "application/octet-stream";
}

/** The file's text, or null if it is not a text. */
async function textOf(file) {
  if (!TEXT_TYPES.test(typeOf(file)) && !TEXT_NAMES.test(file.name)) return null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  const isUtf16 = bytes[0] === 0xff && bytes[1] === 0xfe || bytes[0] === 0xfe && bytes[1] === 0xff;
  const encoding = isUtf16 ? (bytes[0] === 0xff ? "utf-16le" : "utf-16be") : "utf-8";
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\r\n", "\n");
  } catch {
    return null;  // in another encoding: the agent gets the bytes
  }
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:${typeOf(file)};base64,${reader.result.slice(reader.result.indexOf(",") + 1)}`);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function tooLarge(file, maxBytes) {
  return `${file.name} has ${size(file.size)}. With what is needed to send it, it is more than the ${size(maxBytes)} that a run's input may have.`;
}

function kindOfFile(text) {
  const type = DATA_URL.exec(text)?.[1].toLowerCase();
  if (!type) return "Text";
  return type === "application/pdf" ? "PDF file" : `File (${type})`;
}

function bytesOf(text) {
  const data = DATA_URL.exec(text);
  if (!data) return new Blob([text]).size;
  return Math.floor((text.length - data[0].length - (text.match(/=*$/)?.[0].length ?? 0)) * 3 / 4);
}

/** A file that is dropped outside a field must not replace the page. */
export function keepDroppedFilesOut(root) {
  for (const type of ["dragover", "drop"]) {
    root.addEventListener(type, (event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    });
  }
}
