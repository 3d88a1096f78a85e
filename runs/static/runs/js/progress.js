// How far the run is, by its own account.

const MANY = 1000; // beyond this many parts nobody counts along

/** Show {done, total, message}, or nothing yet. */
export function showProgress(element, progress, isAlive) {
  element.classList.toggle("is-empty", !progress);
  if (!progress) {
    element.hidden = !isAlive;
    return;
  }
  element.hidden = false;
  const bar = element.querySelector("progress");
  const { done, total } = progress;
  if (total > 0) Object.assign(bar, { max: total, value: Math.min(done, total) });
  else bar.removeAttribute("value");
  bar.hidden = !(total > 0);
  document.getElementById("progress-words").textContent = inWords(progress);
}

function inWords({ done, total, message }) {
  const count = total > MANY ? `${Math.floor((100 * done) / total)} %` : total > 0 ? `${done} of ${total}` : "";
  return [count, message].filter(Boolean).join(" · ");
}
