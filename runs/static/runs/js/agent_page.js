// An agent's page: the form, and the start of a run.
import { h, readData } from "./dom.js";
import { SchemaForm } from "./form.js";
import { Draft } from "./form_draft.js";
import { keepDroppedFilesOut } from "./form_files.js";
import { failureWords, startRun } from "./form_sending.js";
import { RequestFailed } from "./http.js";
import { isSame } from "./schema.js";
import { signInAddress } from "./sign_in.js";

const data = readData("agent-data");
const formElement = document.getElementById("agent-form");
const runButton = document.getElementById("run");
const runWord = runButton.querySelector(".button-word");
const messages = document.getElementById("form-messages");
const RUN = runWord.textContent;
const DRAFT_PAUSE = 300;

const draft = new Draft(`${data.agent}:${data.source}`);
const failure = h("div", { role: "alert" });
const notices = h("div", { class: "form-notices", role: "status" });
let form;
let draftTimer = 0;

formElement.addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
formElement.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) formElement.requestSubmit(runButton);
});
// The reader came back from the run, and the browser had kept the page.
window.addEventListener("pageshow", (event) => { if (event.persisted) ready(); });
window.addEventListener("pagehide", saveDraft);
keepDroppedFilesOut(document);
fill();
ready();

/** Draw the form with the draft, or with the input that the server gives. */
function fill() {
  const kept = draft.load();
  build(kept ? kept.input : data.input);
  if (form.leftOut.length) note(`What no longer fits the form was left out: ${form.leftOut.join(", ")}.`);
  if (kept && (kept.hadFiles || !isSame(kept.input, untouched()))) noteDraft(kept);
}

function noteDraft({ hadFiles }) {
  note("What you had typed is still here. ", hadFiles && "Files have to be chosen again. ",
    h("button", { type: "button", class: "link", onclick: startAfresh }, "Start afresh"));
}

function build(initial) {
  form = new SchemaForm(data.schema, { initial, maxBytes: data.max_bytes, onchange: keepDraft });
  messages.replaceChildren(failure, form.messages);
  formElement.replaceChildren(notices, form.element);
  if (form.isEmpty) formElement.append(h("p", { class: "quiet" }, "There is nothing to fill in."));
}

/** The draft of a form in which the reader has typed nothing. */
function untouched() {
  return JSON.parse(JSON.stringify(new SchemaForm(data.schema, { initial: data.input }).read(true)));
}

function startAfresh() {
  draft.clear();
  notices.replaceChildren();
  failure.replaceChildren();
  build(data.input);
  form.fields.focus();
}

function note(...words) {
  notices.append(h("p", { class: "notice" }, words));
}

function keepDraft() {
  failure.replaceChildren();
  clearTimeout(draftTimer);
  draftTimer = setTimeout(saveDraft, DRAFT_PAUSE);
}

function saveDraft() {
  if (!draftTimer) return;
  clearTimeout(draftTimer);
  draftTimer = 0;
  draft.save({ input: form.read(true), hadFiles: form.hasFiles() });
}

async function start() {
  if (runButton.disabled) return;
  runButton.disabled = true;
  runWord.textContent = "Starting...";
  failure.replaceChildren();
  try {
    if (!await form.check()) return ready();
    const run = await startRun(data.addresses.start, { agent: data.agent, input: form.read() }, data.max_bytes);
    clearTimeout(draftTimer);
    draftTimer = 0;
    draft.clear();
    location.assign(data.addresses.run.replace("{id}", run.id));
  } catch (error) {
    ready();
    showError(error);
  }
}

function ready() {
  runButton.disabled = false;
  runWord.textContent = RUN;
}

/** Show an error: a message about a field there, any other above the form. */
function showError(error) {
  const isAboutFields = error instanceof RequestFailed && error.code === "invalid_input";
  const homeless = isAboutFields ? form.refuse(error.fields) : [];
  const hasMessages = isAboutFields && Object.keys(error.fields).length > 0;
  const signIn = signInAddress(data.addresses.sign_in);
  if (!hasMessages) show(failureWords(error, { maxBytes: data.max_bytes, signIn }));
  else if (homeless.length) show([`${homeless.join(" ")} Nothing was started.`]);
  // A field with a message has the focus already.
  if (!hasMessages || homeless.length === Object.values(error.fields).flat().length) failure.firstChild.focus();
}

function show(words) {
  failure.replaceChildren(h("p", { class: "notice notice-bad", tabindex: -1 }, words));
}
