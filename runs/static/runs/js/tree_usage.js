// What a run and all runs below it have used together, from the frames of their feed.
import { usageText } from "./format.js";

const COUNTS = ["llm_calls", "input_tokens", "output_tokens"];

export class TreeUsage {
  #element;
  #used = new Map(); // by run

  constructor(element) {
    this.#element = element;
  }

  /** Take in frames of any run of the tree. */
  apply(frames) {
    let isNew = false;
    for (const frame of frames) {
      const id = frame.run?.id ?? frame.run;
      const usage = frame.run?.usage ?? frame.usage;
      if (!id || !usage) continue;
      this.#used.set(id, usage);
      isNew = true;
    }
    if (isNew && this.#used.size > 1) this.#show();
  }

  #show() {
    const all = [...this.#used.values()];
    const total = { estimated: all.some((usage) => usage.estimated) };
    for (const name of COUNTS) total[name] = all.reduce((sum, usage) => sum + usage[name], 0);
    const text = usageText(total);
    this.#element.textContent = text && `with sub-agents: ${text}`;
    this.#element.parentElement.hidden = !text;
  }
}
