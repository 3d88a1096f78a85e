// The Stop in a row of a list of runs.

/** Let `button` say "stop", or "stopping" and be disabled. */
export function showStop(button, name) {
  const isStopping = name === "stopping";
  if (isStopping) keepFocus(button);
  button.disabled = isStopping;
  const word = button.querySelector(".button-word");
  word.textContent = word.dataset[name];
}

/** A button that is disabled or removed would lose the focus: the row's link takes it. */
export function keepFocus(button) {
  if (document.activeElement === button) linkOf(button)?.focus({ preventScroll: true });
}

export function linkOf(element) {
  return element.closest("tr").querySelector("th a");
}
