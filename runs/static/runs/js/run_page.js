// A run's page: wires the feed to the head, the controls, the log and the panels.
import { startAgain } from "./again.js";
import { showConnection } from "./connection.js";
import { readData } from "./dom.js";
import { EventsPanel } from "./events_panel.js";
import { follow } from "./feed.js";
import { timeZone } from "./format.js";
import { get, post } from "./http.js";
import { LogView } from "./log.js";
import { Panel } from "./panels.js";
import { showProgress } from "./progress.js";
import { RunHeader } from "./run_header.js";
import { RunState, whenChanged } from "./run_state.js";
import { setServerTimeOfPage } from "./server_clock.js";
import { StopControl } from "./stop.js";
import { openTabs } from "./tabs.js";
import { openValues } from "./values.js";

const find = (id) => document.getElementById(id);
const data = readData("run-data");
const { addresses } = data;
const zone = `tz=${encodeURIComponent(timeZone)}`;

setServerTimeOfPage(data.now);
rememberTimeZone();

const state = new RunState(data);
const header = new RunHeader(data.looks);
const stop = new StopControl({
  address: addresses.stop,
  refresh: () => state.refresh(() => get(`${addresses.state}?${zone}`)),
});
state.watch((now) => header.show(now));
state.watch((now) => stop.show(now));
state.watch((now) => showProgress(find("progress"), now.progress, now.status));
state.watch(whenChanged((now) => now.isAlive, (now) => find("again").classList.toggle("button-primary", !now.isAlive)));
state.watch(whenChanged((now) => now.words.receipt.join(" "), showReceipt));

startAgain(find("again"), addresses.again, (words) => { find("again-line").textContent = words; });
openPanels();

const log = new LogView(find("log"), {
  rootId: data.run.id,
  mayStop: data.may_stop,
  stopChild: (id) => post(addresses.stop.replace(data.run.id, id)),
});
follow(`${addresses.feed}?view=page&tree=1&${zone}`, {
  onFrames(frames) {
    state.apply(frames);
    log.apply(frames);
  },
  onState(feed) {
    if (feed.name === "open") log.reconnected();
    showConnection(find("connection"), find("main"), feed, { run: addresses.run, signIn: addresses.sign_in });
  },
});

function openPanels() {
  const result = new Panel(find("panel-result"), addresses.result);
  const input = new Panel(find("panel-input"), addresses.input);
  const receipt = new Panel(find("panel-receipt"), addresses.receipt);
  const events = new EventsPanel(find("panel-events"), addresses.events, addresses.events_download);
  openValues(find("details"));
  openTabs(document.querySelector("#details [role=tablist]"), (name) => {
    if (name === "input" && input.isEmpty) input.load();
    if (name === "events") events.show();
  });
  // The server has drawn these two with the page.
  state.watch(whenChanged((now) => now.status, () => result.load()));
  state.watch(whenChanged((now) => now.status + JSON.stringify(now.run.stop), () => receipt.load()));
}

function showReceipt(now) {
  const words = now.words.receipt.join(" ");
  find("receipt-line").textContent = now.isAlive ? "" : words;
  // What it waits for changes more often than the rest of that panel.
  const inPanel = document.querySelector(".receipt-sentences");
  if (inPanel) inPanel.textContent = words;
}

/** Let the server write times as this reader's clock shows them, from the next page on. */
function rememberTimeZone() {
  const secure = location.protocol === "https:" ? "; secure" : "";
  if (timeZone) document.cookie = `timezone=${timeZone}; path=/app; max-age=31536000; samesite=lax${secure}`;
}
