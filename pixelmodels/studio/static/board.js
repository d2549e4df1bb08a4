// Maps of one image beside each other, and one pixel that is pointed at in all of them, with the mouse or the keyboard.

import { el } from "./dom.js";

const STEP = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class Board {
  /** Args: `times`, how large a pixel is shown; `pointed` hears the row and column that are pointed at, `chosen` those that are asked about. */
  constructor({ height, width }, times, pointed, chosen) {
    Object.assign(this, { height, width, times, pointed, chosen, cursor: [0, 0], asked: null, frames: [] });
  }

  /** A canvas as one of the maps; one whose channels are below each other has them all pointed at as the same pixels. */
  frame(canvas) {
    canvas.style.width = `${this.times * canvas.width}px`;
    canvas.style.height = `${this.times * canvas.height}px`;
    const here = el("span", { className: "here", hidden: true }), asked = el("span", { className: "asked", hidden: true });
    const node = el("div", { className: "frame" }, canvas, here, asked);
    const at = (event) => {
      const box = canvas.getBoundingClientRect(), place = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
      return [place((event.clientY - box.top) / box.height, canvas.height) % this.height, place((event.clientX - box.left) / box.width, canvas.width)];
    };
    canvas.addEventListener("pointermove", (event) => this.point(...at(event)));
    canvas.addEventListener("click", (event) => {
      this.point(...at(event));
      this.chosen(...this.cursor);
    });
    this.frames.push({ here, asked });
    this.mark();
    return node;
  }

  /** Let the arrows move what is pointed at while a canvas has the focus, and Enter ask about it. */
  listen(canvas, describedBy) {
    for (const [name, value] of Object.entries({ tabindex: "0", role: "application", "aria-describedby": describedBy })) canvas.setAttribute(name, value);
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.point(...this.cursor));
    canvas.addEventListener("keydown", (event) => {
      if (event.key in STEP) this.point(...this.cursor.map((one, axis) => Math.max(0, Math.min([this.height, this.width][axis] - 1, one + STEP[event.key][axis]))));
      else if (event.key === "Enter") this.chosen(...this.cursor);
      else return;
      event.preventDefault();
    });
  }

  /** Forget all maps but the first ones. */
  keep(count) {
    this.frames.length = count;
  }

  point(row, column) {
    this.cursor = [row, column];
    this.isPointed = true;
    this.mark();
    this.pointed(row, column);
  }

  ask(row, column) {
    this.asked = [row, column];
    this.mark();
  }

  mark() {
    for (const { here, asked } of this.frames) {
      put(here, this.isPointed ? this.cursor : null, this.times);
      put(asked, this.asked, this.times);
    }
  }
}

function put(mark, place, times) {
  mark.hidden = place === null;
  if (place === null) return;
  const [row, column] = place;
  Object.assign(mark.style, { top: `${row * times}px`, left: `${column * times}px`, width: `${times}px`, height: `${times}px` });
}
