// The feed of all runs that the person may see: one connection for all listeners on this page.
//
//   listen({ onRun(run, words), onReset(), onSettled(alive, isFirst), onState(state) })
//
// A list's feed has no cursor. Each connection begins with all runs that are not over; when these
// have come, onSettled says which they are: what is shown as alive and is not among them has ended
// unheard, either while the connection was lost or before there was one.
import { follow } from "./feed.js";

const ACTIVE = ["queued", "running", "stopping"];
const SETTLE_MILLISECONDS = 600; // of quiet after a connection

const listeners = [];
const alive = new Set();
let settleTimer = 0;
let isSettled = false;
let isFirst = true;

export function isActive(status) {
  return ACTIVE.includes(status);
}

export function listen(listener) {
  listeners.push(listener);
  if (listeners.length === 1) follow("/ws/runs?view=page", { onFrames, onState });
}

function onState(state) {
  tell("onState", state);
  if (state.name === "open") {
    alive.clear();
    isSettled = false;
    settleSoon();
  } else {
    clearTimeout(settleTimer);
  }
}

function onFrames(frames) {
  for (const frame of frames) {
    if (frame.type === "reset") tell("onReset");
    if (frame.type !== "run") continue;
    if (isActive(frame.run.status)) alive.add(frame.run.id);
    else alive.delete(frame.run.id);
    tell("onRun", frame.run, frame.words);
  }
  if (!isSettled) settleSoon();
}

function settleSoon() {
  clearTimeout(settleTimer);
  settleTimer = setTimeout(() => {
    isSettled = true;
    tell("onSettled", alive, isFirst);
    isFirst = false;
  }, SETTLE_MILLISECONDS);
}

function tell(what, ...news) {
  for (const listener of listeners) listener[what]?.(...news);
}
