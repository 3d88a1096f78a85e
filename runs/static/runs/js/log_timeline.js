// What happened in one run, in order of time: lines, and between them the runs that it called.
//
// Lines stand in blocks of a hundred, and the browser leaves out blocks that are out of sight
// (content-visibility in log.css). Events of a run come in order, but its children may be heard of
// earlier or later than the lines around them: a block is then cut in two.
import { h } from "./dom.js";

const BLOCK_SIZE = 100;

export class Timeline {
  #element;
  #end; // what stays below all of it
  #parts = []; // blocks and children: { element, at (ms), times? (ms of each line, blocks only) }

  /** What happens goes into `element`, above the last thing that it has now. */
  constructor(element) {
    this.#element = element;
    this.#end = element.lastElementChild;
  }

  addLine(line, at) {
    const index = this.#placeAfter(at);
    let block = this.#parts[index - 1];
    if (!block?.times || block.times.length >= BLOCK_SIZE) block = this.#insert(index, newBlock(at));
    block.element.append(line);
    block.times.push(at);
    setSize(block);
  }

  /** Put the group of a run that began at `at` between the lines before and after. */
  addChild(element, at) {
    let index = this.#placeAfter(at);
    const block = this.#parts[index - 1];
    if (block?.times && block.times.at(-1) > at) {
      this.#insert(index, cut(block, at));
      if (!block.times.length) {
        // All its lines are later: the new block has taken its place.
        block.element.remove();
        this.#parts.splice(index - 1, 1);
        index -= 1;
      }
    }
    this.#insert(index, { element, at });
  }

  /** Return the index after the last part that began at or before `at`: nearly always the end. */
  #placeAfter(at) {
    let index = this.#parts.length;
    while (index > 0 && this.#parts[index - 1].at > at) index -= 1;
    return index;
  }

  #insert(index, part) {
    this.#element.insertBefore(part.element, this.#parts[index]?.element ?? this.#end);
    this.#parts.splice(index, 0, part);
    return part;
  }
}

function newBlock(at) {
  return { element: h("div", { class: "block" }), at, times: [] };
}

/** Move the lines later than `at` into a block of their own, and return that. */
function cut(block, at) {
  let keep = block.times.length;
  while (keep > 0 && block.times[keep - 1] > at) keep -= 1;
  const rest = newBlock(block.times[keep]);
  rest.element.append(...[...block.element.children].slice(keep));
  rest.times = block.times.splice(keep);
  setSize(block);
  setSize(rest);
  return rest;
}

/** So that the scroll bar is about right before the block was ever drawn. */
function setSize(block) {
  block.element.style.setProperty("--lines", block.times.length);
}
