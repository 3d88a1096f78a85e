// A run's page: the run, and its panels in tabs.
import { readData } from "./dom.js";
import { timeZone } from "./format.js";
import { showRun } from "./run_view.js";
import { openTabs } from "./tabs.js";

const find = (id) => document.getElementById(id);

const data = readData("run-data");

rememberTimeZone(data.addresses.home.replace(/\/$/, ""));
showRun(data, find("main"), ({ state, panel, events }) => {
  const input = panel("input");
  openTabs(document.querySelector("#details [role=tablist]"), (name) => {
    if (name === "input" && input.isEmpty) input.load();
    if (name === "events") events.show();
  });
  state.onChange((now) => now.isAlive, (now) => find("again").classList.toggle("button-primary", !now.isAlive));
});

/** Let the server write times in this reader's time zone, from the next page below `path` on. */
function rememberTimeZone(path) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  if (timeZone) document.cookie = `timezone=${timeZone}; path=${path}; max-age=31536000; samesite=lax${secure}`;
}
