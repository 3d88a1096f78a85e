// The progress that the run reports.

const MANY = 1000; // of more parts, show a percentage

/** Show {done, total, message} of a run in `status`; an empty bar keeps its room. */
export function showProgress(element, progress, status) {
  // A finished run may not have reported it: "0 of 17" under a result would puzzle.
  const isShown = Boolean(progress) && status !== "success";
  element.classList.toggle("is-empty", !isShown);
  if (!isShown) return;
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
