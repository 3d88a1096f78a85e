// Bring a list of runs up to date with how the server draws it now, without disturbing what stays.
import { localiseInstants } from "./format.js";

/**
 * Make `list` show `drawn`, the same list from the server: changed runs in place, new ones at the
 * top. `pruning` removes runs that `drawn` does not have. Return how many runs were known. Focus and
 * current page stay.
 */
export function adopt(list, drawn, { pruning = false } = {}) {
  localiseInstants(drawn);
  const gone = new Map(children(list).map((child) => [child.dataset.run, child]));
  const fresh = [];
  let knownCount = 0;
  for (const child of children(drawn)) {
    const present = gone.get(child.dataset.run);
    gone.delete(child.dataset.run);
    if (present) knownCount += 1;
    // A run below a known one is older than this page.
    else if (!knownCount) fresh.push(child);
    if (present && present.dataset.status !== child.dataset.status) replace(present, child);
  }
  list.prepend(...fresh);
  if (pruning) for (const child of gone.values()) child.remove();
  return knownCount;
}

function children(list) {
  return [...list.children].filter((child) => child.dataset.run);
}

function replace(present, drawn) {
  const focused = focusableIn(present).indexOf(document.activeElement);
  const current = present.querySelector("a[aria-current]");
  present.replaceWith(drawn);
  if (current) drawn.querySelector("a")?.setAttribute("aria-current", "page");
  if (focused >= 0) (focusableIn(drawn)[focused] ?? focusableIn(drawn)[0])?.focus();
}

function focusableIn(element) {
  return [...element.querySelectorAll("a, button:enabled")];
}
