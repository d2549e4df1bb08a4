// A canvas on which one paints what is known of an image: brush and box, with the mouse, a finger, or the keyboard.

import { button, choice, el, field, number } from "./dom.js";
import { Picture, times } from "./pixels.js";

const VEIL = [255, 120, 0], STEP = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const WANTED = 392; // pixels of the screen

export class Editor {
  /** Args: `changed`, called when what is known has changed. */
  constructor(changed) {
    this.changed = changed;
    this.canvas = el("canvas", { tabindex: "0", role: "application", "aria-describedby": "editor-keys", width: 1, height: 1 });
    this.paint = choice([["0", "unknown"], ["1", "known"]]);
    this.tool = choice([["brush", "brush"], ["box", "box"]]);
    this.size = number(3, 1, 64);
    this.cursor = [0, 0];
    this.corner = null; // of a box that was begun with the keyboard
    this.dragged = null; // where the mouse is, or was
    const fill = (text, known) => button(text, () => this.set(known));
    this.node = el(
      "div",
      { className: "editor" },
      el("div", { className: "board" }, this.canvas),
      el(
        "div",
        {},
        el("div", { className: "fields" }, field("Paint", this.paint), field("With", this.tool), field("Brush, pixels", this.size)),
        el(
          "p",
          { className: "actions" },
          fill("All known", () => 1),
          fill("All unknown", () => 0),
          fill("Top half known", (row) => Number(row < this.spec.height / 2)),
          fill("Left half known", (row, column) => Number(column < this.spec.width / 2)),
          fill("Swap", (row, column, was) => 1 - was),
          button("Undo", () => this.undo()),
        ),
        el("p", { id: "editor-keys", className: "status" }, "Orange pixels are unknown, and will be drawn. With the keyboard: arrows move, space paints, B begins and ends a box."),
      ),
    );
    this.listen();
  }

  get hasImage() {
    return Boolean(this.picture);
  }

  /** Begin with an image (a PNG file in base64) of a version, of which the top half is known. */
  async load(png, info) {
    const picture = await new Picture(info, "").load(png);
    Object.assign(this, { spec: info, picture, cursor: [0, 0], corner: null, dragged: null });
    this.known = Uint8Array.from({ length: info.height * info.width }, (_, at) => Number(Math.floor(at / info.width) < info.height / 2));
    this.history = [];
    this.canvas.width = info.width;
    this.canvas.height = info.height;
    this.resize();
    this.show();
    this.changed();
  }

  resize() {
    const room = this.canvas.parentElement.clientWidth;
    if (!this.spec || !room) return;
    const { height, width } = this.spec, k = Math.max(1, Math.min(times(width, WANTED), Math.floor(room / width)));
    this.canvas.style.width = `${k * width}px`;
    this.canvas.style.height = `${k * height}px`;
  }

  set(known) {
    if (!this.picture) return;
    this.remember();
    this.known = this.known.map((was, at) => known(Math.floor(at / this.spec.width), at % this.spec.width, was));
    this.show();
    this.changed();
  }

  remember() {
    this.history.push(this.known.slice());
    if (this.history.length > 50) this.history.shift();
  }

  undo() {
    if (!this.history?.length) return;
    this.known = this.history.pop();
    this.show();
    this.changed();
  }

  /** Paint the pixels of a brush around a pixel, or of a box between two. */
  brush([row, column]) {
    const size = Number(this.size.value) || 1, top = row - Math.floor((size - 1) / 2), left = column - Math.floor((size - 1) / 2);
    this.box([top, left], [top + size - 1, left + size - 1]);
  }

  box([row, column], [row2, column2]) {
    const value = Number(this.paint.value), { height, width } = this.spec;
    for (let r = Math.max(0, Math.min(row, row2)); r <= Math.min(height - 1, Math.max(row, row2)); r++)
      for (let c = Math.max(0, Math.min(column, column2)); c <= Math.min(width - 1, Math.max(column, column2)); c++) this.known[r * width + c] = value;
  }

  show() {
    const { height, width } = this.spec, context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.picture.canvas, 0, 0, width, height, 0, 0, width, height);
    const data = context.getImageData(0, 0, width, height);
    const inBox = this.preview();
    for (let at = 0; at < height * width; at++) {
      if (!this.known[at]) for (let c = 0; c < 3; c++) data.data[4 * at + c] = 0.45 * data.data[4 * at + c] + 0.55 * VEIL[c];
      if (inBox(Math.floor(at / width), at % width)) for (let c = 0; c < 3; c++) data.data[4 * at + c] = 255 - data.data[4 * at + c];
    }
    context.putImageData(data, 0, 0);
    const count = this.known.reduce((sum, one) => sum + one);
    this.canvas.setAttribute("aria-label", `image of ${height} rows and ${width} columns, ${count} of ${height * width} pixels known`);
  }

  /** Which pixels are shown turned over: the box that is being drawn, and the cursor of the keyboard. */
  preview() {
    const begin = this.corner ?? (this.tool.value === "box" ? this.dragged : null);
    const end = this.cursor;
    const hasCursor = this.canvas === document.activeElement && this.usesKeys;
    return (row, column) => {
      if (begin) return between(row, begin[0], end[0]) && between(column, begin[1], end[1]);
      return hasCursor && row === end[0] && column === end[1];
    };
  }

  listen() {
    window.addEventListener("resize", () => this.resize());
    const place = (event) => {
      const at = this.canvas.getBoundingClientRect();
      const row = Math.floor(((event.clientY - at.top) * this.spec.height) / at.height), column = Math.floor(((event.clientX - at.left) * this.spec.width) / at.width);
      return [clamp(row, this.spec.height), clamp(column, this.spec.width)];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.picture) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.remember();
      this.usesKeys = false;
      this.dragged = this.cursor = place(event);
      if (this.tool.value === "brush") this.brush(this.dragged);
      this.show();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.dragged) return;
      const to = place(event);
      if (this.tool.value === "brush") for (const one of line(this.cursor, to)) this.brush(one);
      this.cursor = to;
      this.show();
    });
    const end = () => {
      if (!this.dragged) return;
      if (this.tool.value === "box") this.box(this.dragged, this.cursor);
      this.dragged = null;
      this.show();
      this.changed();
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("blur", () => this.picture && ((this.usesKeys = false), this.show()));
    this.canvas.addEventListener("keydown", (event) => {
      if (!this.picture) return;
      this.usesKeys = true;
      if (event.key in STEP) {
        const [down, right] = STEP[event.key];
        this.cursor = [clamp(this.cursor[0] + down, this.spec.height), clamp(this.cursor[1] + right, this.spec.width)];
      } else if (event.key === " ") {
        this.remember();
        this.brush(this.cursor);
        this.changed();
      } else if (event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey) {
        if (this.corner) {
          this.remember();
          this.box(this.corner, this.cursor);
          this.corner = null;
          this.changed();
        } else this.corner = this.cursor;
      } else if (event.key === "Escape") this.corner = null;
      else return;
      event.preventDefault();
      this.show();
    });
  }

  /** The mask as the service takes it: a PNG file in base64, white where pixels are known. */
  mask() {
    const canvas = el("canvas", { width: this.spec.width, height: this.spec.height }), context = canvas.getContext("2d");
    const data = context.createImageData(this.spec.width, this.spec.height);
    this.known.forEach((known, at) => data.data.set([255 * known, 255 * known, 255 * known, 255], 4 * at));
    context.putImageData(data, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
  }
}

const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
const between = (value, one, other) => value >= Math.min(one, other) && value <= Math.max(one, other);

function line([row, column], [row2, column2]) {
  const steps = Math.max(Math.abs(row2 - row), Math.abs(column2 - column), 1);
  return Array.from({ length: steps + 1 }, (_, k) => [Math.round(row + ((row2 - row) * k) / steps), Math.round(column + ((column2 - column) * k) / steps)]);
}
