// "Run again": the same agent with the same input, in a run of its own.
import { post } from "./http.js";

// The form's Run stood in the same place: the second half of a slow double click is meant for that.
const SETTLING_MS = 800; // since this page began to load

/** Let `button` start another run, and go to `pageOf` it; `say(words)` tells why it can't. */
export function startAgain(button, address, say, pageOf = (run) => run.address) {
  let key = newKey();
  button.addEventListener("click", async () => {
    if (isSettling()) return;
    button.disabled = true;
    say("");
    try {
      const run = await post(address, {}, { "Idempotency-Key": key });
      location.assign(pageOf(run));
    } catch (error) {
      button.disabled = false;
      say(inWords(error));
    }
  });
  // Back on this page, which the browser had kept as it was.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    button.disabled = false;
    key = newKey();
  });
}

function isSettling() {
  return performance.now() < SETTLING_MS && new URL(document.referrer || location.href).pathname.startsWith("/app/agents/");
}

/** Two clicks, or one that is repeated because no answer came, begin one run. */
function newKey() {
  // Not randomUUID(): it is missing where there is no TLS.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function inWords(error) {
  if (error.code === "offline") return "The server can't be reached. Press Run again once more; it starts one run only.";
  if (error.code === "not_authenticated") return "Nothing was started: you are signed out.";
  if (error.code === "invalid_input") return `It can't be run again as it was. ${error.message}`;
  return `Nothing was started. ${error.message}`;
}
