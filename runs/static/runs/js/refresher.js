// Fetch a list again when it may be out of date: one request at a time, not too often.
//
// An answer may be older than a frame of the feed that came while it was on its way. It would undo
// what that frame showed, and no later frame would mend it: so `note` asks for another request.

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
      isStale = false; // the connection is lost; the next one settles it
    }
    isLoading = false;
    if (isStale) soon();
  }

  /** Take note of a frame: an answer that is on its way may not have it. */
  function note() {
    if (isLoading) isStale = true;
  }

  return { soon, note };
}
