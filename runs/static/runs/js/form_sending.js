// Start a run, once, and say in a sentence why it was not started.
import { h } from "./dom.js";
import { size } from "./form_checks.js";
import { RequestFailed, newKey, post } from "./http.js";

const KEPT = "What you typed is still here.";
const NOT_TWICE = `Perhaps the run was started all the same. ${KEPT} Press Run again: it is not started twice.`;

let last = {}; // the text of the last body that was sent, and its key

/**
 * Return the run that the server started. The same body, sent again after a failure, carries the
 * same Idempotency-Key: if only the answer was lost, there is still one run. Throws RequestFailed.
 */
export async function startRun(address, body, maxBytes) {
  const text = JSON.stringify(body);
  const bytes = new Blob([text]).size;
  if (bytes > maxBytes) throw new RequestFailed("input_too_large", `The input has ${size(bytes)}.`, { status: 413 });
  if (text !== last.text) last = { text, key: newKey() };
  const run = await post(address, body, { "Idempotency-Key": last.key });
  last = {};
  return run;
}

/** Words about a run that was not started, or perhaps was: children of an element. */
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
    default: {
      const isSure = error.status < 500 || error.status === 503;
      return [error.message, isSure ? ` Nothing was started. ${KEPT}` : ` ${NOT_TWICE}`];
    }
  }
}
