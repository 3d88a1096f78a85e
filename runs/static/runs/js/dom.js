// Build elements. Text goes in as text, never as markup.

/**
 * Make an element: h("button", { class: "button", disabled: true, onclick }, "Stop").
 * Properties with "on" are listeners; false, null and undefined leave an attribute out, true writes
 * an empty one. Children may be nodes, strings, arrays of these, or null.
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child);
  }
}

const SVG = "http://www.w3.org/2000/svg";

/** Draw a sign of signs.html. It is decoration: a word always says the same. */
export function sign(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `sign sign-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#sign-${name}`);
  svg.append(use);
  return svg;
}

/** Draw a status as the template tag does; `look` is {label, tone} from the server. */
export function chip(status, look) {
  return h("span", { class: `chip tone-${look.tone}`, dataset: { status } }, sign(status),
    h("span", { class: "chip-word" }, look.label));
}

/** Read the JSON of a template's json_script. */
export function readData(id) {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
}
