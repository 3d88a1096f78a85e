// The admin's list of runs stays true while somebody works with it.
//
// The feed says which runs have changed; the server draws their cells, the same way as the whole
// list, and they are put where the old ones were. Lines stay where they are, with their ticks, their
// order and the place that the page was scrolled to; of new runs a line above the list tells.
import { localiseInstants } from "../js/format.js";
import { getFragment, post } from "../js/http.js";
import { isActive, listen } from "../js/list_feed.js";
import { secondsSince, setServerTime, ticking } from "../js/server_clock.js";

const AT_LEAST_MILLISECONDS = 500; // between two looks
const USAGE_MILLISECONDS = 5000; // the feed does not tell of tokens
const MOST_AT_ONCE = 200;

const desk = document.getElementById("run-list");
const words = desk.dataset;
const lines = new Map(); // run -> its <tr>
const stale = new Set(); // runs whose lines are to be drawn anew
const unseen = new Set(); // runs that began after the list was drawn
const asking = new Set(); // runs whose Stop was pressed and not answered yet
const drawnAt = Date.parse(words.now);
let refreshTimer = 0;
let refreshedAt = -Infinity;

for (const mark of document.querySelectorAll("#result_list [data-run]")) {
  lines.set(mark.dataset.run, mark.closest("tr"));
}
setServerTime(words.now);
localiseInstants(document.getElementById("changelist-form"));
document.getElementById("changelist-form").addEventListener("click", (event) => {
  const button = event.target.closest(".run-stop");
  if (!button) return;
  event.preventDefault();
  stop(button);
});
setInterval(tick, 1000);
setInterval(() => document.visibilityState === "visible" && refreshAlive(), USAGE_MILLISECONDS);
listen({ onRun: take, onReset: refreshAlive, onSettled: refreshAlive, onState: showState });

// News.

function take(run) {
  if (lines.has(run.id)) refresh([run.id]);
  else if (Date.parse(run.created_at) > drawnAt) announce(run.id);
}

function announce(id) {
  unseen.add(id);
  const note = document.getElementById("run-news");
  const count = unseen.size;
  note.firstElementChild.textContent =
    count === 1 ? words.oneNew : words.manyNew.replace("%(count)s", count);
  note.lastElementChild.hidden = false;
}

function showState({ name }) {
  const line = document.getElementById("run-connection");
  const said = { lost: words.lost, refused: words.refused }[name] ?? "";
  if (line.textContent !== said) line.textContent = said;
}

// Drawing lines anew.

function refreshAlive() {
  refresh([...lines].filter(([, line]) => isActive(statusOf(line))).map(([id]) => id));
}

function refresh(ids) {
  for (const id of ids) stale.add(id);
  if (!stale.size) return;
  const pause = Math.max(0, refreshedAt + AT_LEAST_MILLISECONDS - performance.now());
  refreshTimer ||= setTimeout(look, pause);
}

async function look() {
  refreshedAt = performance.now();
  const ids = [...stale].slice(0, MOST_AT_ONCE);
  // Before asking: what changes while the answer is under way must be asked for again.
  ids.forEach((id) => stale.delete(id));
  try {
    const page = await getFragment(`${words.refresh}?ids=${ids.join()}`);
    const drawn = page.querySelector("tbody[data-now]");
    if (drawn) adopt(ids, drawn); // else it is the sign-in page; the feed says so
  } catch {
    stale.clear(); // the feed says that the connection is lost, and settles it when it is back
  } finally {
    refreshTimer = 0;
  }
  refresh([]);
}

function adopt(ids, drawn) {
  setServerTime(drawn.dataset.now);
  const found = new Map([...drawn.rows].map((row) => [row.dataset.run, row]));
  for (const id of ids) {
    const line = lines.get(id);
    if (!line) continue; // said to be gone by an answer before
    if (found.has(id)) update(id, line, found.get(id));
    else sayGone(id, line);
  }
}

function update(id, line, drawn) {
  for (const cell of [...drawn.cells]) {
    const { column } = cell.dataset;
    if (column === "stop" && asking.has(id)) continue;
    const old = line.querySelector(`.field-${column}`);
    // What only ticks is left alone: a person may be marking it with the mouse.
    if (!old || saying(old) === saying(cell)) continue;
    const hadFocus = old.contains(document.activeElement);
    localiseInstants(cell);
    old.replaceChildren(...cell.childNodes);
    if (hadFocus) focusLine(line);
  }
}

function saying(cell) {
  const copy = cell.cloneNode(true);
  for (const part of copy.querySelectorAll(".ticks, time")) {
    part.textContent = "";
    part.removeAttribute("title");
  }
  return copy.innerHTML;
}

function sayGone(id, line) {
  lines.delete(id);
  line.classList.add("run-gone");
  line.querySelector(".field-status").textContent = words.gone;
  for (const name of ["stop", "waiting"]) line.querySelector(`.field-${name}`)?.replaceChildren();
}

function statusOf(line) {
  return line.querySelector("[data-status]")?.dataset.status;
}

function tick() {
  for (const element of document.querySelectorAll("#result_list .ticks")) {
    const { label, since } = element.dataset;
    element.textContent = [label, ticking(secondsSince(since))].filter(Boolean).join(", ");
  }
}

// Stop.

async function stop(button) {
  const line = button.closest("tr");
  const id = line.querySelector("[data-run]").dataset.run;
  asking.add(id);
  show(button, "stopping");
  say("");
  try {
    // Nothing comes back from the sign-in page that the admin sends strangers to.
    if (!await post(button.formAction)) throw new Error(words.signedOut);
  } catch (problem) {
    show(button, "stop");
    say(`${words.notStopped} ${problem.message}`);
  }
  asking.delete(id);
  refresh([id]);
}

function show(button, name) {
  const isStopping = name === "stopping";
  // A button that is disabled loses the focus to nowhere.
  if (isStopping && document.activeElement === button) focusLine(button.closest("tr"));
  button.disabled = isStopping;
  const word = button.querySelector(".run-stop-word");
  word.textContent = word.dataset[name];
}

function focusLine(line) {
  line.querySelector(".field-agent a")?.focus({ preventScroll: true });
}

function say(text) {
  document.getElementById("run-problem").textContent = text;
}
