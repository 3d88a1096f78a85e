// The buttons of a value that the server has drawn: raw or formatted, copy.

/** Make the buttons of all values below `root` work, also of later ones. */
export function openValues(root) {
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const value = button?.closest(".value");
    if (!value) return;
    if (button.dataset.form) choose(value, button.dataset.form);
    if (button.dataset.action === "copy") copy(value, button);
  });
}

function choose(value, form) {
  for (const button of value.querySelectorAll("[data-form]")) {
    button.setAttribute("aria-pressed", String(button.dataset.form === form));
  }
  for (const pane of value.querySelectorAll("[data-pane]")) pane.hidden = pane.dataset.pane !== form;
}

async function copy(value, button) {
  const words = button.textContent;
  const isDone = await write(value).then(() => true, () => false);
  button.textContent = isDone ? button.dataset.done : button.dataset.failed;
  setTimeout(() => { button.textContent = words; }, 1500);
}

async function write(value) {
  // Without TLS there is no clipboard. With it, the script must ask during the click; the text may
  // come later.
  if (!navigator.clipboard) return copyBySelection(value);
  const text = wholeText(value);
  if (typeof ClipboardItem === "undefined") return navigator.clipboard.writeText(await text);
  const blob = text.then((whole) => new Blob([whole], { type: "text/plain" }));
  return navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
}

async function wholeText(value) {
  if (!("isCut" in value.dataset)) return value.querySelector("[data-pane=raw]").textContent;
  const response = await fetch(value.dataset.download, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.text();
}

function copyBySelection(value) {
  if ("isCut" in value.dataset) throw new Error("only the start is here");
  const area = document.createElement("textarea");
  area.value = value.querySelector("[data-pane=raw]").textContent;
  area.className = "visually-hidden";
  value.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  if (!isDone) throw new Error("the browser refused");
}
