// Say something in passing. The region is in base.html, so that a screen reader knows it before.
import { h } from "./dom.js";

const SECONDS = 8;

/** Show `text` for a while; a click takes it away at once. */
export function toast(text) {
  const element = h("p", { class: "toast", onclick: () => element.remove() }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), SECONDS * 1000);
}
