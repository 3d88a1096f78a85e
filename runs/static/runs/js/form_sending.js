// Start a run, once, and say in a sentence what became of it if it was not started.
import { h } from "./dom.js";
import { size } from "./form_checks.js";
import { RequestFailed, newKey, post } from "./http.js";

const KEPT = "What you typed is still here.";
const NOT_TWICE = `Perhaps the run was started all the same. ${KEPT} Press Run again: it is not started twice.`;

/**
 * Sends inputs to POST /runs. The same input, sent again after a failure, carries the same
 * Idempotency-Key: if the answer alone was lost, there is still one run.
 */
export class Sender {
  constructor(agent, address, maxBytes) {
    this.agent = agent;
    this.address = address;
    this.maxBytes = maxBytes;
    this.forget();
  }

  /** The next run is a new one, whatever its input. */
  forget() {
    this.last = { text: null, key: null };
  }

  /** Return the run. Throws RequestFailed. */
  async send(input) {
    const body = { agent: this.agent, input };
    const text = JSON.stringify(body);
    const bytes = new Blob([text]).size;
    if (bytes > this.maxBytes) throw new RequestFailed("input_too_large", `The input has ${size(bytes)}.`, { status: 413 });
    if (text !== this.last.text) this.last = { text, key: newKey() };
    return post(this.address, body, { "Idempotency-Key": this.last.key });
  }
}

/** What to tell a person whose run was not started, or perhaps was: children of an element. */
export function failureWords(error, { maxBytes, signIn }) {
  if (!(error instanceof RequestFailed)) throw error;
  switch (error.code) {
    case "offline":
      return ["The server can't be reached. ", NOT_TWICE];
    case "input_too_large":
      return [`This is too much: a run's input may have ${size(maxBytes)}. ${error.message} Nothing was started.`];
    case "not_authenticated":
      return ["You are signed out, so nothing was started. ", KEPT, " ",
        h("a", { href: signIn, target: "_blank", rel: "noopener" }, "Sign in in another tab"), ", then press Run again."];
    case "csrf_failed":
      return ["The server did not trust this page any more, so nothing was started. Reload it, then press Run again."];
    default:
      return [...ofStatus(error)];
  }
}

function ofStatus(error) {
  const isSure = error.status < 500 || error.status === 503;
  return [error.message, isSure ? ` Nothing was started. ${KEPT}` : ` ${NOT_TWICE}`];
}
