// A run, on its page and in the admin: the feed updates the head, the controls and the log.
import { startAgain } from "./again.js";
import { setServerTimeOfPage } from "./clock.js";
import { showConnection } from "./connection.js";
import { EventsPanel } from "./events_panel.js";
import { follow } from "./feed.js";
import { timeZone } from "./format.js";
import { get, post } from "./http.js";
import { showLimits } from "./limits.js";
import { LogView } from "./log.js";
import { Panel } from "./panels.js";
import { showProgress } from "./progress.js";
import { RunHeader } from "./run_header.js";
import { RunState } from "./run_state.js";
import { StopControl } from "./stop.js";
import { TreeUsage } from "./tree_usage.js";
import { openValues } from "./values.js";

const LEFT_MILLISECONDS = 1000; // until the first look for what a run has left behind; later ones come slower
const MOST_LEFT_MILLISECONDS = 15_000;
const find = (id) => document.getElementById(id);

/**
 * Show the run of `data` in `main`. `addPanels({ state, panel, events })` wires the panels that its
 * page has; it may return another reader of the frames.
 */
export function showRun(data, main, addPanels) {
  const { addresses } = data;
  const zone = `tz=${encodeURIComponent(timeZone)}`;
  const pageOf = (id) => addresses.page.replace(data.run.id, id);

  setServerTimeOfPage(data.now);
  openValues(main);

  const state = new RunState(data);
  const header = new RunHeader(data.looks, main);
  const refresh = () => state.refresh(() => get(`${addresses.state}?${zone}`));
  const stop = new StopControl({ address: addresses.stop, refresh });
  state.watch((now) => header.show(now));
  state.watch((now) => stop.show(now));
  state.watch(showLimits);
  state.watch((now) => showProgress(find("progress"), now.progress, now.status));
  state.onChange((now) => now.words.receipt.join(" "), showReceipt);
  watchLeftBehind(state, refresh);
  startAgain(addresses.again, pageOf, addresses.agents);

  const panel = (name, Kind = Panel) => new Kind(find(`panel-${name}`), addresses[name]);
  const [result, receipt] = [panel("result"), panel("receipt")];
  const events = new EventsPanel(find("panel-events"), addresses.events, addresses.events_download);
  // The server has drawn these two with the page.
  state.onChange((now) => now.status, () => result.load());
  state.onChange((now) => now.status + JSON.stringify(now.run.stop), () => receipt.load());

  const log = new LogView(find("log"), {
    rootId: data.run.id,
    mayStop: data.may_stop,
    stopChild: (id, body) => post(addresses.stop.replace(data.run.id, id), body),
    addressOf: pageOf,
  });
  const usage = new TreeUsage(find("usage-tree"));
  const listeners = [state, log, usage, addPanels({ state, panel, events })].filter(Boolean);
  follow(`${addresses.feed}?view=page&tree=1&${zone}`, {
    overHttp: addresses.run,
    onFrames: (frames) => listeners.forEach((listener) => listener.apply(frames)),
    onState(feed) {
      if (feed.name === "open") log.reconnected();
      showConnection(find("connection"), main, feed, { run: addresses.run, runs: addresses.runs, signIn: addresses.sign_in });
    },
  });
}

/**
 * Ask again and again whether the code of a run that was given up has ended: the feed of a run that
 * is over says nothing more.
 */
function watchLeftBehind(state, refresh) {
  let pause = LEFT_MILLISECONDS;
  let timer = 0;
  state.watch((now) => {
    if (now.isAlive || !now.words.is_left_running) return;
    clearTimeout(timer);
    timer = setTimeout(ask, pause);
  });

  async function ask() {
    pause = Math.min(pause * 1.5, MOST_LEFT_MILLISECONDS);
    if (document.visibilityState === "visible") await refresh().catch(() => {});
    if (!state.words.is_left_running) return announce(state.words.receipt.join(" "));
    clearTimeout(timer);
    timer = setTimeout(ask, pause);
  }
}

function announce(words) {
  find("announcement").textContent = words;
}

function showReceipt(now) {
  const words = now.words.receipt.join(" ");
  find("receipt-line").textContent = now.isAlive ? "" : words;
  // These sentences change more often than the rest of their panel.
  const inPanel = document.querySelector(".receipt-sentences");
  if (inPanel) inPanel.textContent = words;
}
