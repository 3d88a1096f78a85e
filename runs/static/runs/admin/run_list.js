// Keep the admin's list of runs up to date while a person works with it.
//
// The feed says which runs have changed. The server draws their cells, as it draws the whole list,
// and each replaces the old cell. Lines keep their place, ticks and order, and the page its scroll
// position; a note above the list counts new runs.
import { setServerTime, setServerTimeOfPage } from "../js/clock.js";
import { localiseInstants } from "../js/format.js";
import { getFragment, post } from "../js/http.js";
import { listen } from "../js/list_feed.js";
import { refresher } from "../js/refresher.js";
import { linkOf, offerAgain, showStop, wantedStop } from "../js/row_stop.js";
import { isActive } from "../js/run_state.js";

const AT_LEAST_MILLISECONDS = 500; // between two refreshes
const USAGE_MILLISECONDS = 5000; // the feed does not carry the tokens used
const MOST_AT_ONCE = 200;

const find = (id) => document.getElementById(id);
const form = find("changelist-form");
const words = find("run-list").dataset;
const lines = new Map(); // run -> its <tr>
const stale = new Set(); // runs whose lines are out of date
const unseen = new Set(); // runs that started after the list was drawn
const stopping = new Set(); // runs whose Stop has no answer yet
const drawnAt = Date.parse(words.now);
const { soon: refreshSoon } = refresher(refresh, AT_LEAST_MILLISECONDS);

for (const mark of document.querySelectorAll("#result_list [data-run]")) {
  lines.set(mark.dataset.run, mark.closest("tr"));
}
setServerTimeOfPage(words.now);
localiseInstants(form);
form.addEventListener("click", (event) => {
  const button = event.target.closest(".run-stop");
  if (!button) return;
  event.preventDefault();
  stop(button);
});
setInterval(() => document.visibilityState === "visible" && markActive(), USAGE_MILLISECONDS);
listen({ shownActive, onRun: receive, onStale: markActive, onState: showState });

// Updates from the feed.

function receive(run) {
  if (lines.has(run.id)) markStale([run.id]);
  else if (Date.parse(run.created_at) > drawnAt) announce(run.id);
}

function announce(id) {
  unseen.add(id);
  const [text, link] = find("run-updates").children;
  text.textContent = unseen.size === 1 ? words.oneNew : words.manyNew.replace("%(count)s", unseen.size);
  link.hidden = false;
}

function showState({ name }) {
  const line = find("run-connection");
  const said = { lost: words.lost, refused: words.refused }[name] ?? "";
  if (line.textContent !== said) line.textContent = said;
}

// Refreshing lines.

function shownActive() {
  const status = (line) => line.querySelector("[data-status]")?.dataset.status;
  return [...lines.keys()].filter((id) => isActive(status(lines.get(id))));
}

function markActive() {
  markStale(shownActive());
}

function markStale(ids) {
  for (const id of ids) stale.add(id);
  if (stale.size) refreshSoon();
}

async function refresh() {
  const ids = [...stale].slice(0, MOST_AT_ONCE);
  // Before the request: a change during it needs another one.
  ids.forEach((id) => stale.delete(id));
  const page = await getFragment(`${words.refresh}?ids=${ids.join()}`);
  adopt(ids, page.querySelector("tbody"));
  markStale([]);
}

function adopt(ids, drawn) {
  setServerTime(drawn.dataset.now);
  const found = new Map([...drawn.rows].map((row) => [row.dataset.run, row]));
  for (const id of ids) {
    const line = lines.get(id);
    if (!line) continue; // an earlier answer has marked it as deleted
    if (found.has(id)) update(id, line, found.get(id));
    else markDeleted(id, line);
  }
}

function update(id, line, drawn) {
  for (const cell of [...drawn.cells]) {
    const { column } = cell.dataset;
    if (column === "stop" && stopping.has(id)) continue;
    const old = line.querySelector(`.field-${column}`);
    // Leave a cell that only ticks: a person may be selecting its text.
    if (!old || withoutTime(old) === withoutTime(cell)) continue;
    const hadFocus = old.contains(document.activeElement);
    localiseInstants(cell);
    old.replaceChildren(...cell.childNodes);
    if (hadFocus) linkOf(line)?.focus({ preventScroll: true });
  }
}

function withoutTime(cell) {
  const copy = cell.cloneNode(true);
  for (const part of copy.querySelectorAll("[data-since], time")) {
    part.textContent = "";
    part.removeAttribute("title");
  }
  return copy.innerHTML;
}

function markDeleted(id, line) {
  lines.delete(id);
  line.classList.add("run-gone");
  line.querySelector(".field-status").textContent = words.gone;
  for (const name of ["stop", "waiting"]) line.querySelector(`.field-${name}`)?.replaceChildren();
}

// Stop.

async function stop(button) {
  const id = button.closest("tr").querySelector("[data-run]").dataset.run;
  const problem = find("run-problem");
  const body = await wantedStop(button);
  if (!body) return;
  stopping.add(id);
  showStop(button, "stopping", body.mode ? JSON.parse(button.dataset.offer) : null);
  problem.textContent = "";
  try {
    await post(button.formAction, body);
  } catch (error) {
    offerAgain(button);
    problem.textContent = `${words.notStopped} ${error.message}`;
  }
  stopping.delete(id);
  markStale([id]);
}
