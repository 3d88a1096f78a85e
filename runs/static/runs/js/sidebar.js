// The sidebar's past runs and the header's count, kept as the server has them.
import { adopt } from "./adopt.js";
import { h, sign } from "./dom.js";
import { instant } from "./format.js";
import { getFragment } from "./http.js";
import { isActive, listen } from "./list_feed.js";
import { refresher } from "./refresher.js";

const MOST = 15; // as many as the server draws
const me = document.body.dataset.user;
const home = document.querySelector(".brand").href;
const list = document.getElementById("past-runs");
const count = document.getElementById("active-count");
const titles = new Map(); // agent -> title, as the links above have them
const active = new Set();
let isCounting = false;
const { soon: reloadSoon, note: noteFrame } = refresher(reload);

for (const link of document.querySelectorAll("#side [data-agent]")) {
  titles.set(link.dataset.agent, link.textContent);
}

listen({ onRun: take, onReset: reloadSoon, onSettled: settle });

function take(run, words) {
  noteFrame();
  // What an agent called stands below its caller, on that one's page.
  if (run.owner !== me || run.parent) return;
  noteForCount(run);
  const entry = entryOf(run.id);
  if (entry) update(entry, run, words);
  else if (isNewest(run)) put(run, words);
}

function settle(alive, isFirst) {
  beginToCount(alive);
  const endedUnheard = entries().some(
    (entry) => isActive(entry.dataset.status) && !alive.has(entry.dataset.run),
  );
  if (endedUnheard || !isFirst) reloadSoon();
}

// The count. What came with the page holds until the feed has told of all that runs.

function noteForCount(run) {
  if (isActive(run.status)) active.add(run.id);
  else active.delete(run.id);
  if (isCounting) showCount();
}

function beginToCount(alive) {
  for (const id of active) if (!alive.has(id)) active.delete(id);
  isCounting = true;
  showCount();
}

function showCount() {
  count.querySelector(".number").textContent = active.size;
  count.hidden = active.size === 0;
}

// The entries.

function entries() {
  return [...list.querySelectorAll("[data-run]")];
}

function entryOf(id) {
  return entries().find((entry) => entry.dataset.run === id);
}

/** An older one, of which there is news, stays below the end of the list. */
function isNewest(run) {
  const newest = list.querySelector("[data-run] time")?.dateTime;
  return !newest || Date.parse(run.created_at) > Date.parse(newest);
}

function update(entry, run, words) {
  if (entry.dataset.status === run.status) return;
  entry.dataset.status = run.status;
  entry.querySelector(".sign").replaceWith(sign(run.status));
  entry.querySelector(".side-word").textContent = words.status.label;
}

function put(run, words) {
  document.getElementById("no-past-runs")?.remove();
  document.querySelector(".side-more").hidden = false;
  const address = `${home}runs/${run.id}/`;
  list.prepend(
    h("li", { dataset: { run: run.id, status: run.status } },
      h("a", { href: address, "aria-current": address === location.href.split(/[?#]/)[0] ? "page" : null },
        sign(run.status),
        h("span", { class: "side-title" }, titles.get(run.agent) ?? run.agent),
        h("span", { class: "visually-hidden side-word" }, words.status.label),
        h("time", { datetime: run.created_at, "data-form": "short", title: instant(run.created_at, "full") },
          instant(run.created_at, "short")))),
  );
  const last = entries()[MOST];
  if (last && !last.contains(document.activeElement)) last.remove();
}

/** Take the list over as it is now; any page has it, the first one is the smallest. */
async function reload() {
  const page = await getFragment(home);
  adopt(list, page.querySelector("#past-runs"), { pruning: true });
}
