// Images of one request as they are drawn: their canvases, and the order in which their pixels came.

import { events } from "./api.js";
import { el } from "./dom.js";
import { Picture, places, times } from "./pixels.js";

const WANTED = 112; // pixels of the screen for an image of many; of few more
const MOST_FRAMES = 80;
const GAP = 8; // pixels between two images, as in the sheet
const drawings = new WeakMap(); // by their nodes

window.addEventListener("resize", () => document.querySelectorAll(".drawing").forEach((node) => drawings.get(node).resize()));

export class Drawing {
  /** Args: `wanted`, pixels of the screen for an image; by their number unless given. */
  constructor(title = "", wanted = null) {
    this.wanted = wanted;
    this.caption = el("figcaption", {}, title);
    this.images = el("div", { className: "images" });
    this.node = el("figure", { className: "drawing" }, this.caption, this.images);
    this.pictures = [];
    drawings.set(this.node, this);
  }

  /** As large as there is room for, a whole number of times. */
  resize() {
    if (!this.pictures.length || !this.node.clientWidth) return;
    const times = Math.max(1, Math.min(this.most, Math.floor(this.node.clientWidth / this.info.width)));
    this.pictures.forEach((one) => one.scale(times));
    if (this.pictures.length > 1) this.images.style.maxWidth = this.isStrip ? "" : `${Math.ceil(Math.sqrt(this.pictures.length)) * (times * this.info.width + GAP)}px`;
  }

  /** Canvases for so many images of a version. */
  prepare(info, n, wanted = this.wanted ?? (n <= 4 ? 2 * WANTED : WANTED)) {
    this.info = info;
    this.trace = []; // [image, levels, rows, columns] in the order of drawing
    this.pictures = Array.from({ length: n }, (_, index) => new Picture(info, `image ${index + 1} of ${n}, not drawn yet`));
    this.most = times(info.width, wanted);
    this.pictures.forEach((one) => one.scale(this.most));
    this.images.replaceChildren(...this.pictures.map((one) => one.canvas));
    this.resize();
  }

  /** Draw a request; `tell` hears the share that is done. Returns what the stream said first. */
  async run(path, body, info, signal, tell = () => {}) {
    this.request = { path, body };
    this.prepare(info, body.n);
    const total = body.n * info.height;
    let rows = 0, finished = 0, start = null;
    const loads = [];
    for await (const [kind, data] of events(path, { ...body, stream: true }, signal)) {
      if (kind === "start") {
        this.started = start = data;
        this.caption.textContent = captionOf(data);
      } else if (kind === "row") {
        this.put(data.image, data.levels, ...places(data));
        rows++;
      } else if (kind === "image") {
        loads.push(this.finish(data.image, data.png, start));
        finished++;
      }
      tell(Math.max(Math.min(rows / total, 0.999), finished / body.n), finished);
    }
    await Promise.all(loads);
    return start;
  }

  put(image, levels, rows, columns) {
    this.trace.push([image, levels, rows, columns]);
    this.pictures[image].put(levels, rows, columns);
    this.pictures[image].show();
    this.pictures[image].canvas.dataset.begun ??= performance.now().toFixed(0);
  }

  /** A finished image says all of its pixels: those that were known, and not drawn, too. */
  async finish(image, png, start) {
    const picture = this.pictures[image];
    if (picture.known.includes(0)) await picture.load(png);
    picture.canvas.setAttribute("aria-label", `image ${image + 1} of ${this.pictures.length}: ${captionOf(start)}`);
    picture.canvas.dataset.finished = performance.now().toFixed(0);
  }

  /** Pictures that begin empty, and a function that draws the next part of what was drawn, for an animation. */
  replay() {
    const pictures = this.pictures.map((one) => new Picture(one.spec, "")), each = Math.max(1, Math.ceil(this.trace.length / MOST_FRAMES));
    let at = 0;
    const next = () => {
      for (const [image, ...row] of this.trace.slice(at, at + each)) pictures[image].put(...row);
      at += each;
      const more = at < this.trace.length;
      pictures.forEach((one, index) => (more ? one.show() : one.context.drawImage(this.pictures[index].canvas, 0, 0)));
      return more;
    };
    return [pictures, next];
  }

  get isWhole() {
    return this.pictures.length > 0 && this.pictures.every((one) => one.canvas.dataset.finished);
  }

  get name() {
    return `${this.started?.model ?? "images"}-seed-${this.started?.seed ?? 0}`.replaceAll(/[^\w.-]+/g, "-");
  }
}

export function captionOf(start) {
  const of = start.label_name ?? (start.label === null || start.label === undefined ? "" : `class ${start.label}`);
  return [start.model, `seed ${start.seed}`, of].filter(Boolean).join(" · ");
}
