// Warn the reader when the page may be out of date.
import { h } from "./dom.js";
import { get } from "./http.js";
import { signInAddress } from "./sign_in.js";

/**
 * Show the state of the feed in `line`, and mark `main` while it may be out of date. Addresses: `run`
 * is what the feed shows, `runs` the list of runs, `signIn` the sign-in page.
 */
export function showConnection(line, main, { name }, addresses) {
  const isDoubtful = !["connecting", "open", "ended"].includes(name);
  main.classList.toggle("is-stale", isDoubtful);
  if (name === "lost") line.textContent = "Connection lost. What you see may be out of date. Trying again...";
  else if (name === "gone") line.replaceChildren(...gone(addresses));
  else if (name === "refused") showRefusal(line, addresses);
  else line.textContent = "";
}

async function showRefusal(line, addresses) {
  const problem = await get(addresses.run).then(() => null, (error) => error);
  line.replaceChildren(...(problem?.status === 404 ? gone(addresses) : signedOut(addresses)));
}

function gone({ runs }) {
  return ["This run was deleted, or is not yours to see any longer. ", h("a", { href: runs }, "See your runs")];
}

function signedOut({ signIn }) {
  return ["You are signed out. What you see may be out of date. ",
    h("a", { href: signInAddress(signIn) }, "Sign in again")];
}
