// The log's end stays in sight, unless the reader has scrolled up to read; then a button leads back.
import { h } from "./dom.js";

const NEAR = 24; // px from the end that count as the end
const COUNT = new Intl.NumberFormat();

export class FollowEnd {
  #box;
  #button;
  #isFollowing = true;
  #lastTop = 0;
  #newLines = 0;

  /** `box` scrolls, `content` grows in it; the button is put into `holder`. */
  constructor(holder, box, content) {
    this.#box = box;
    this.#button = h("button", { type: "button", class: "button button-small log-jump", hidden: true, onclick: () => this.jump() });
    holder.append(this.#button);
    box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Observers run after layout and before paint, so nothing jumps when the content grows.
    const watch = new ResizeObserver(() => this.#keepEnd());
    watch.observe(content);
    watch.observe(box);
    this.#show();
  }

  added(lineCount) {
    if (this.#isFollowing || !lineCount) return;
    this.#newLines += lineCount;
    this.#show();
  }

  jump() {
    this.#follow(true);
    this.#keepEnd();
    this.#box.focus({ preventScroll: true });
  }

  /** The reader has opened something: leave it in sight. */
  stay() {
    if (!this.#isAtEnd()) this.#follow(false);
  }

  #scrolled() {
    const top = this.#box.scrollTop;
    if (this.#isAtEnd()) this.#follow(true);
    // Only a reader scrolls up; new lines move the end down.
    else if (top < this.#lastTop) this.#follow(false);
    this.#lastTop = top;
  }

  #follow(isFollowing) {
    if (isFollowing === this.#isFollowing) return;
    this.#isFollowing = isFollowing;
    this.#newLines = 0;
    this.#show();
  }

  #keepEnd() {
    if (!this.#isFollowing) return;
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#lastTop = this.#box.scrollTop;
  }

  #isAtEnd() {
    return this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < NEAR;
  }

  #show() {
    const count = this.#newLines;
    this.#button.hidden = this.#isFollowing;
    this.#box.classList.toggle("is-following", this.#isFollowing);
    this.#button.textContent = count
      ? `Jump to the latest · ${COUNT.format(count)} new ${count === 1 ? "line" : "lines"}`
      : "Jump to the latest";
  }
}
