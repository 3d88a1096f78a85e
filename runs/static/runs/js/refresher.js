// Fetch a list again when it may be out of date: one request at a time, not too often.
//
// An answer may be older than a frame that came during the request. It would undo that frame, so
// `note` makes another request follow.

/** `load` fetches and shows; `pause` is the least number of milliseconds between two requests. */
export function refresher(load, pause = 0) {
  let timer = 0;
  let startedAt = -Infinity;
  let isLoading = false;
  let isStale = false;

  function soon() {
    isStale = true;
    if (isLoading) return;
    timer ||= setTimeout(run, Math.max(0, startedAt + pause - performance.now()));
  }

  async function run() {
    timer = 0;
    startedAt = performance.now();
    isLoading = true;
    isStale = false;
    try {
      await load();
    } catch {
      isStale = false; // the next connection of the feed refreshes
    }
    isLoading = false;
    if (isStale) soon();
  }

  /** Note that a frame has come: an answer under way may not have it. */
  function note() {
    if (isLoading) isStale = true;
  }

  return { soon, note };
}
