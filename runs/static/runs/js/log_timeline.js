// The lines of one run in order of time, and between them the runs that it called.
//
// Lines are in blocks of a hundred, and the browser skips blocks that are out of sight
// (content-visibility in log.css). A child may come earlier or later than the lines around it: then
// a block is cut in two.
import { h } from "./dom.js";

const BLOCK_SIZE = 100;

export class Timeline {
  #element;
  #end; // the last child of the element; lines go above it
  #parts = []; // blocks and children: { element, at (ms), times? (ms of each line, blocks only) }

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

  /** Put the group of a run that started at `at` between the lines. */
  addChild(element, at) {
    let index = this.#placeAfter(at);
    const block = this.#parts[index - 1];
    if (block?.times && block.times.at(-1) > at) {
      this.#insert(index, cut(block, at));
      if (!block.times.length) {
        // All its lines are later: the new block has them.
        block.element.remove();
        this.#parts.splice(index - 1, 1);
        index -= 1;
      }
    }
    this.#insert(index, { element, at });
  }

  /** Return the index after the last part that started at or before `at`: nearly always the end. */
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

/** Make the scroll bar about right before the block is drawn. */
function setSize(block) {
  block.element.style.setProperty("--lines", block.times.length);
}
