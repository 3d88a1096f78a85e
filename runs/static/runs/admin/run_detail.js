// A run in the admin: the parts of its page, in the admin's frame.
import { startAgain } from "../js/again.js";
import { showConnection } from "../js/connection.js";
import { readData } from "../js/dom.js";
import { EventsPanel } from "../js/events_panel.js";
import { follow } from "../js/feed.js";
import { localiseInstants, timeZone } from "../js/format.js";
import { get, post } from "../js/http.js";
import { LogView } from "../js/log.js";
import { Panel } from "../js/panels.js";
import { showProgress } from "../js/progress.js";
import { RunHeader } from "../js/run_header.js";
import { RunState, whenChanged } from "../js/run_state.js";
import { setServerTimeOfPage } from "../js/server_clock.js";
import { StopControl } from "../js/stop.js";
import { openValues } from "../js/values.js";
import { TreePanel } from "./run_tree.js";

const find = (id) => document.getElementById(id);
const data = readData("run-data");
const { addresses } = data;
const main = find("run-detail");
const zone = `tz=${encodeURIComponent(timeZone)}`;
const pageOf = ({ id }) => addresses.change.replace(data.run.id, id);

setServerTimeOfPage(data.now);
localiseInstants(main);
openValues(main);

const state = new RunState(data);
const header = new RunHeader(data.looks, main);
const stop = new StopControl({
  address: addresses.stop,
  refresh: () => state.refresh(() => get(`${addresses.state}?${zone}`)),
});
// Without this script the browser sends the form; with it, StopControl posts.
find("stop-form")?.addEventListener("submit", (event) => event.preventDefault());
state.watch((now) => header.show(now));
state.watch((now) => stop.show(now));
state.watch((now) => showProgress(find("progress"), now.progress, now.status));
state.watch(whenChanged((now) => now.words.receipt.join(" "), showReceipt));
startAgain(find("again"), addresses.again, (words) => { find("again-line").textContent = words; }, pageOf);
const tree = openPanels();

const log = new LogView(find("log"), {
  rootId: data.run.id,
  mayStop: data.may_stop,
  stopChild: (id) => post(addresses.stop.replace(data.run.id, id)),
  addressOf: (id) => pageOf({ id }),
});
follow(`${addresses.feed}?view=page&tree=1&${zone}`, {
  onFrames(frames) {
    state.apply(frames);
    log.apply(frames);
    tree.apply(frames);
  },
  onState(feed) {
    if (feed.name === "open") log.reconnected();
    showConnection(find("connection"), main, feed, { run: addresses.run, signIn: addresses.sign_in });
  },
});

function openPanels() {
  const panel = (name, Kind = Panel) => new Kind(find(`panel-${name}`), addresses[name]);
  const [result, receipt, facts] = [panel("result"), panel("receipt"), panel("facts")];
  const events = new EventsPanel(find("panel-events"), addresses.events, addresses.events_download);
  find("events").addEventListener("toggle", ({ target }) => target.open && events.show());
  state.watch(whenChanged((now) => now.status, () => {
    result.load();
    facts.load();
  }));
  state.watch(whenChanged((now) => now.status + JSON.stringify(now.run.stop), () => receipt.load()));
  return panel("tree", TreePanel);
}

function showReceipt(now) {
  const words = now.words.receipt.join(" ");
  find("receipt-line").textContent = now.isAlive ? "" : words;
  const inPanel = document.querySelector(".receipt-sentences");
  if (inPanel) inPanel.textContent = words;
}
