// A list of runs that stays true: rows change where they are, new runs appear at the top, and each
// that can be stopped has its Stop.
import { adopt } from "./adopt.js";
import { showConnection } from "./connection.js";
import { chip } from "./dom.js";
import { duration, timeZone } from "./format.js";
import { getFragment, post } from "./http.js";
import { isActive, listen } from "./list_feed.js";
import { stopTicking, tickSince } from "./log_clock.js";
import { refresher } from "./refresher.js";
import { setServerTimeOfPage } from "./server_clock.js";
import { inWords } from "./stop.js";
import { toast } from "./toasts.js";

const REFRESH_MILLISECONDS = 1000; // at least, between two requests for the list
const table = document.getElementById("runs");
const body = table.tBodies[0];
const me = document.body.dataset.user;
const showsOnlyMine = "mine" in table.dataset;
const ticking = new Set(); // cells
const showsCalled = new URLSearchParams(location.search).has("called");
const { soon: refreshSoon, note: noteFrame } = refresher(refresh, REFRESH_MILLISECONDS);

setServerTimeOfPage(table.dataset.now);
tickAll();
listen({ onRun: take, onReset: sayChanged, onSettled: settle, onState: showState });
body.addEventListener("click", (event) => {
  const button = event.target.closest("[data-address]");
  if (button) stop(button);
});
prepareFilters();

function rows() {
  return [...body.rows];
}

// Updates from the feed.

function take(run, words) {
  noteFrame();
  const row = rows().find((one) => one.dataset.run === run.id);
  if (row) update(row, run, words);
  else if (mayBelongHere(run)) refreshSoon();
}

/** Whether the server should be asked; which runs fit the filters, it knows best. */
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
  updateDuration(row.querySelector(".runs-duration"), run);
  const button = row.querySelector("[data-address]");
  if (!button) return;
  if (!isActive(run.status)) removeStop(button);
  else if (run.status === "stopping") showStopping(button);
}

function updateDuration(cell, run) {
  if (run.started_at && !run.finished_at) {
    if (cell.dataset.since !== run.started_at) tick(cell, run.started_at);
    return;
  }
  stopTicking(cell);
  delete cell.dataset.since;
  const seconds = (Date.parse(run.finished_at) - Date.parse(run.started_at)) / 1000;
  cell.textContent = run.started_at ? duration(seconds) : "";
}

function tick(cell, since) {
  cell.dataset.since = since;
  ticking.add(cell);
  tickSince(cell, since);
}

function tickAll() {
  for (const cell of ticking) {
    if (cell.isConnected) continue;
    stopTicking(cell); // its row was drawn again
    ticking.delete(cell);
  }
  for (const cell of body.querySelectorAll("[data-since]")) tick(cell, cell.dataset.since);
}

function settle(alive, isFirst) {
  const endedUnheard = rows().some(
    (row) => isActive(row.dataset.status) && !alive.has(row.dataset.run),
  );
  if (endedUnheard || !isFirst) refreshSoon();
}

function showState(state) {
  const line = document.getElementById("connection");
  if (!line) return;
  const { list, signIn } = line.dataset;
  showConnection(line, document.getElementById("main"), state, { run: `${list}?page_size=1`, signIn });
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
  // Nothing in common: more came in between than one page holds.
  if (isGrown && !knownCount) sayChanged();
  tickAll();
}

function sayChanged() {
  const notice = document.getElementById("list-changed");
  if (notice) notice.hidden = false;
  else refreshSoon();
}

// Stop.

async function stop(button) {
  showStopping(button);
  try {
    await post(button.dataset.address);
    refreshSoon(); // the feed is faster, if there is one
  } catch (problem) {
    rearm(button);
    toast(`${nameOf(button)}: ${inWords(problem)}`);
    if (problem.status === 409) refreshSoon();
  }
}

function showStopping(button) {
  if (document.activeElement === button) focusRow(button);
  button.disabled = true;
  write(button, "stopping");
}

function rearm(button) {
  button.disabled = false;
  write(button, "stop");
}

function write(button, name) {
  const word = button.querySelector(".button-word");
  word.textContent = word.dataset[name];
}

function removeStop(button) {
  if (document.activeElement === button) focusRow(button);
  button.remove();
}

/** A button that is disabled loses the focus to nowhere. */
function focusRow(button) {
  button.closest("tr").querySelector(".runs-agent a").focus();
}

function nameOf(button) {
  return button.closest("tr").querySelector(".runs-agent a").textContent;
}

// Filters.

function prepareFilters() {
  const form = document.getElementById("filters");
  if (!form) return;
  form.addEventListener("submit", () => {
    const days = [form.elements.from, form.elements.to];
    form.elements.zone.disabled = !days.some((day) => day.value);
    form.elements.zone.value = timeZone;
    // An address without what was left empty can be read, and sent to others.
    const empty = [...form.elements].filter((field) => field.name && !field.value);
    for (const field of empty) field.disabled = true;
    // Coming back here, they must be there again.
    setTimeout(() => empty.forEach((field) => { field.disabled = false; }));
  });
}
