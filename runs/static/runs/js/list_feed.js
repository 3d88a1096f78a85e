// The feed of all runs that the reader may see: one connection for all listeners of this page.
//
//   listen({ shownActive(), onRun(run, words), onStale(), onReset(), onState(state) })
//
// Call it while the page loads. The connection begins when all scripts of the page have run: a
// listener that came later would miss what the others have heard.
//
// Each connection starts with all active runs. After them, onStale is called if the list must be
// fetched: after a lost connection, or if it shows a run as active (shownActive gives the ids) that
// is not among them. onReset: the server left frames out; without it, onStale is called.
import { follow } from "./feed.js";
import { isActive } from "./run_state.js";

const SETTLE_MILLISECONDS = 600; // of quiet after a connection

const listeners = [];
const alive = new Set();
let settleTimer = 0;
let isSettled = false;
let isFirst = true;

export function listen(listener) {
  listeners.push(listener);
  if (listeners.length > 1) return;
  const { feed, list } = document.querySelector("[data-feed]").dataset;
  const start = () => follow(`${feed}?view=page`, { overHttp: `${list}?page_size=1`, onFrames, onState });
  document.addEventListener("DOMContentLoaded", start, { once: true });
}

function onState(state) {
  for (const listener of listeners) listener.onState?.(state);
  if (state.name === "open") {
    alive.clear();
    isSettled = false;
    settleSoon();
  } else {
    clearTimeout(settleTimer);
  }
}

function onFrames(frames) {
  for (const { type, run, words } of frames) {
    if (type === "reset") for (const listener of listeners) (listener.onReset ?? listener.onStale)();
    if (type !== "run") continue;
    if (isActive(run.status)) alive.add(run.id);
    else alive.delete(run.id);
    for (const listener of listeners) listener.onRun(run, words);
  }
  if (!isSettled) settleSoon();
}

function settleSoon() {
  clearTimeout(settleTimer);
  settleTimer = setTimeout(() => {
    isSettled = true;
    for (const { shownActive, onStale } of listeners) {
      if (!isFirst || shownActive().some((id) => !alive.has(id))) onStale();
    }
    isFirst = false;
  }, SETTLE_MILLISECONDS);
}
