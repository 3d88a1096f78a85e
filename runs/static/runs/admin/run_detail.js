// A run in the admin: the run, and its panels below each other.
import { readData } from "../js/dom.js";
import { localiseInstants } from "../js/format.js";
import { showRun } from "../js/run_view.js";
import { TreePanel } from "./run_tree.js";

const find = (id) => document.getElementById(id);
const main = find("run-detail");

localiseInstants(main);
// Without this script the browser sends the form; with it, StopControl posts.
find("stop-form")?.addEventListener("submit", (event) => event.preventDefault());
showRun(readData("run-data"), main, ({ state, panel, events }) => {
  const facts = panel("facts");
  find("events").addEventListener("toggle", ({ target }) => target.open && events.show());
  state.onChange((now) => now.status, () => facts.load());
  return panel("tree", TreePanel);
});
