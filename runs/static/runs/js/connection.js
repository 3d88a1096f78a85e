// Warn the reader when the page may be out of date.
import { h } from "./dom.js";
import { get } from "./http.js";

/** Show the state of the feed in `line`, and mark `main` while it may be out of date. */
export function showConnection(line, main, { name }, { run, signIn }) {
  const isDoubtful = !["connecting", "open", "ended"].includes(name);
  main.classList.toggle("is-stale", isDoubtful);
  if (name === "lost") line.textContent = "Connection lost. What you see may be out of date. Trying again...";
  else if (name === "gone") line.replaceChildren(...gone());
  else if (name === "refused") showRefusal(line, run, signIn);
  else line.textContent = "";
}

async function showRefusal(line, run, signIn) {
  const problem = await get(run).then(() => null, (error) => error);
  line.replaceChildren(...(problem?.status === 404 ? gone() : signedOut(signIn)));
}

function gone() {
  return ["This run was deleted, or is not yours to see any longer. ", h("a", { href: "/app/runs/" }, "See your runs")];
}

function signedOut(signIn) {
  const here = location.pathname + location.search + location.hash;
  return ["You are signed out. What you see may be out of date. ",
    h("a", { href: `${signIn}?next=${encodeURIComponent(here)}` }, "Sign in again")];
}
