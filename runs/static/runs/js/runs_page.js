// A list of runs that stays up to date: rows change in place, new runs appear at the top.
import { adopt } from "./adopt.js";
import { setServerTimeOfPage, showDuration } from "./clock.js";
import { showConnection } from "./connection.js";
import { chip, h } from "./dom.js";
import { timeZone } from "./format.js";
import { getFragment, post } from "./http.js";
import { listen } from "./list_feed.js";
import { refresher } from "./refresher.js";
import { keepFocus, linkOf, offerAgain, showStop, wantedStop } from "./row_stop.js";
import { isActive } from "./run_state.js";
import { inWords } from "./stop.js";

const REFRESH_MILLISECONDS = 1000; // at least, between two requests for the list
const TOAST_MILLISECONDS = 8000;
const table = document.getElementById("runs");
const body = table.tBodies[0];
const me = document.body.dataset.user;
const showsOnlyMine = "mine" in table.dataset;
const showsCalled = new URLSearchParams(location.search).has("called");
const { soon: refreshSoon, note: noteFrame } = refresher(refresh, REFRESH_MILLISECONDS);
const rows = () => [...body.rows];

setServerTimeOfPage(table.dataset.now);
listen({
  shownActive: () => rows().filter((row) => isActive(row.dataset.status)).map((row) => row.dataset.run),
  onRun: take, onStale: refreshSoon, onReset: sayChanged, onState: showState,
});
body.addEventListener("click", (event) => {
  const button = event.target.closest("[data-address]");
  if (button) stop(button);
});
document.getElementById("filters")?.addEventListener("submit", (event) => leaveOutEmpty(event.target.elements));

// Updates from the feed.

function take(run, words) {
  noteFrame();
  const row = rows().find((one) => one.dataset.run === run.id);
  if (row) update(row, run, words);
  else if (mayBelongHere(run)) refreshSoon();
}

/** Whether to ask the server, which knows the runs that fit the filters. */
function mayBelongHere(run) {
  if (!("grows" in table.dataset)) return false;
  if (run.parent && !showsCalled) return false;
  if (showsOnlyMine && run.owner !== me) return false;
  const newest = body.querySelector("[data-run] time")?.dateTime;
  return !newest || Date.parse(run.created_at) >= Date.parse(newest);
}

function update(row, run, words) {
  row.dataset.status = run.status;
  row.querySelector(".chip").replaceWith(chip(run.status, words.status));
  row.querySelector(".runs-usage").textContent = words.usage;
  showDuration(row.querySelector(".runs-duration"), run);
  const button = row.querySelector("[data-address]");
  if (!button) return;
  if (run.status === "stopping") showStop(button, "stopping", words.offer);
  if (isActive(run.status)) return;
  keepFocus(button);
  button.remove();
}

function showState(state) {
  const line = document.getElementById("connection");
  if (!line) return;
  const { list } = document.body.dataset;
  const { signIn } = line.dataset;
  showConnection(line, document.getElementById("main"), state, { run: `${list}?page_size=1`, signIn, runs: location.pathname });
}

// Fetching the list again.

async function refresh() {
  const page = await getFragment(location.href);
  const drawn = page.querySelector("#runs tbody");
  if (!drawn) return;
  const isGrown = body.rows.length > 0;
  const knownCount = adopt(body, drawn);
  table.hidden = body.rows.length === 0;
  document.getElementById("no-runs").hidden = body.rows.length > 0;
  // Nothing in common: more runs have started than one page holds.
  if (isGrown && !knownCount) sayChanged();
}

function sayChanged() {
  const notice = document.getElementById("list-changed");
  if (notice) notice.hidden = false;
  else refreshSoon();
}

async function stop(button) {
  const body = await wantedStop(button);
  if (!body) return;
  showStop(button, "stopping", body.mode ? JSON.parse(button.dataset.offer) : null);
  try {
    await post(button.dataset.address, body);
    refreshSoon(); // the feed is faster, if there is one
  } catch (problem) {
    offerAgain(button);
    toast(`${linkOf(button).textContent}: ${inWords(problem)}`);
    if (problem.status === 409) refreshSoon();
  }
}

/** Show `text` for a while; a click takes it away. */
function toast(text) {
  const element = h("p", { class: "toast", onclick: () => element.remove() }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), TOAST_MILLISECONDS);
}

/** Keep empty filters out of the address, so that a person can read it. */
function leaveOutEmpty(fields) {
  fields.zone.disabled = !fields.from.value && !fields.to.value;
  fields.zone.value = timeZone;
  const empty = [...fields].filter((field) => field.name && !field.value);
  for (const field of empty) field.disabled = true;
  // A reader who comes back needs them again.
  setTimeout(() => empty.forEach((field) => { field.disabled = false; }));
}
