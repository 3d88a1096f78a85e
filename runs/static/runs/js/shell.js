// What every page does: instants in the reader's own time zone, and the menu.
import { localiseInstants } from "./format.js";

localiseInstants(document);

const menu = document.getElementById("user-menu");
if (menu) closeWhenLeft(menu);

/** Close a <details> on Escape, on a click elsewhere, and when the focus goes elsewhere. */
function closeWhenLeft(details) {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    const hadFocus = details.contains(document.activeElement);
    details.open = false;
    if (hadFocus) details.querySelector("summary").focus();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!details.contains(event.target)) details.open = false;
  });
  details.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !details.contains(event.relatedTarget)) details.open = false;
  });
}
