// "Run again": the same agent with the same input, in a run of its own.
import { newKey, post } from "./http.js";

// The form's Run stood in the same place: a slow double click is meant for that.
const SETTLING_MS = 800; // since this page began to load

/** Let the page's button start another run, and go to `pageOf(id)`. The forms are below `agents`. */
export function startAgain(address, pageOf, agents) {
  const button = document.getElementById("again");
  const line = document.getElementById("again-line");
  let key = newKey();
  button.addEventListener("click", async () => {
    if (isSettling(agents)) return;
    button.disabled = true;
    line.textContent = "";
    try {
      const { id } = await post(address, {}, { "Idempotency-Key": key });
      location.assign(pageOf(id));
    } catch (error) {
      button.disabled = false;
      line.textContent = inWords(error);
    }
  });
  // The reader came back, and the browser had kept the page.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    button.disabled = false;
    key = newKey();
  });
}

function isSettling(agents) {
  return performance.now() < SETTLING_MS && new URL(document.referrer || location.href).pathname.startsWith(agents);
}

function inWords(error) {
  if (error.code === "offline") return "The server can't be reached. Press Run again once more; it starts one run only.";
  if (error.code === "not_authenticated") return "Nothing was started: you are signed out.";
  if (error.code === "invalid_input") return `It can't be run again as it was. ${error.message}`;
  return `Nothing was started. ${error.message}`;
}
