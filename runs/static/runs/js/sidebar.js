// The sidebar's past runs and the header's count: the server draws them again after each change.
import { adopt } from "./adopt.js";
import { getFragment } from "./http.js";
import { listen } from "./list_feed.js";
import { refresher } from "./refresher.js";
import { isActive } from "./run_state.js";

const REFRESH_MILLISECONDS = 500; // at least, between two requests
const me = document.body.dataset.user;
const home = document.querySelector(".brand").href;
const list = document.getElementById("past-runs");
const count = document.getElementById("active-count");
const { soon } = refresher(reload, REFRESH_MILLISECONDS);
const statuses = () => new Map(
  [...list.querySelectorAll("[data-run]")].map(({ dataset }) => [dataset.run, dataset.status]));

listen({
  shownActive: () => [...statuses()].filter(([, status]) => isActive(status)).map(([id]) => id),
  onStale: soon,
  onRun(run) {
    // A called run is listed on the page of its caller.
    if (run.owner === me && !run.parent && statuses().get(run.id) !== run.status) soon();
  },
});

/** Every page has list and count; the first page is the smallest. */
async function reload() {
  const page = await getFragment(home);
  adopt(list, page.querySelector("#past-runs"), { pruning: true });
  const drawn = page.getElementById("active-count");
  count.querySelector(".number").textContent = drawn.querySelector(".number").textContent;
  count.hidden = drawn.hidden;
}
