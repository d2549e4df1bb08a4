// Levels of a model, grey values, and canvases that show them at whole multiples of their size.

import { el } from "./dom.js";

/** The grey value 0..255 that stands for each level, as the service has it: its first grey value of the level's bin, or more. */
export function greys(levels) {
  return Uint8Array.from({ length: levels }, (_, level) => {
    const exact = (level * 255) / (levels - 1), rounded = Math.round(exact);
    const even = Math.abs(exact - Math.trunc(exact) - 0.5) < 1e-9 ? 2 * Math.round(exact / 2) : rounded; // halves as NumPy rounds them
    return Math.max(even, Math.ceil((256 * level) / levels));
  });
}

/** An image of a model on a canvas of just its size: `levels` are kept beside the pixels that are shown. */
export class Picture {
  constructor(spec, label) {
    this.spec = spec;
    this.grey = greys(spec.levels);
    this.isColour = spec.channels === 3;
    this.rows = this.isColour ? spec.height : spec.height * spec.channels; // other channels one below the other
    this.canvas = el("canvas", { width: spec.width, height: this.rows, role: "img", "aria-label": label });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.data = this.context.createImageData(spec.width, this.rows);
    this.levels = new Uint8Array(spec.channels * spec.height * spec.width);
    this.known = new Uint8Array(spec.height * spec.width); // pixels that were told
  }

  /** Put pixels, `levels` of channels x pixels, at rows and columns; nothing else changes. */
  put(levels, rows, columns) {
    const { channels, height, width } = this.spec, size = height * width;
    for (let k = 0; k < rows.length; k++) {
      const at = rows[k] * width + columns[k];
      this.known[at] = 1;
      for (let c = 0; c < channels; c++) {
        const level = (this.levels[c * size + at] = levels[c][k]), value = this.grey[level];
        if (this.isColour) this.data.data[4 * at + c] = value;
        else this.data.data.fill(value, 4 * (c * size + at), 4 * (c * size + at) + 3);
        if (!this.isColour) this.data.data[4 * (c * size + at) + 3] = 255;
      }
      if (this.isColour) this.data.data[4 * at + 3] = 255;
    }
  }

  show() {
    this.context.putImageData(this.data, 0, 0);
  }

  /** The whole image from a PNG file in base64. */
  async load(png) {
    const values = await pixelsOf(png), { channels, height, width } = this.spec, size = height * width;
    const back = new Map([...this.grey].map((value, level) => [value, level]));
    const levels = Array.from({ length: channels }, () => new Uint8Array(size));
    for (let at = 0; at < size; at++)
      for (let c = 0; c < channels; c++) levels[c][at] = back.get(this.isColour ? values[4 * at + c] : values[4 * (c * size + at)]);
    this.fill(levels);
    return this;
  }

  /** The whole image from its levels: channels x pixels. */
  fill(levels) {
    const { height, width } = this.spec, places = Uint32Array.from({ length: height * width }, (_, at) => at);
    this.put(levels, places.map((at) => Math.floor(at / width)), places.map((at) => at % width));
    this.show();
  }

  scale(times) {
    this.canvas.style.width = `${times * this.spec.width}px`;
    this.canvas.style.height = `${times * this.rows}px`;
  }
}

/** Levels that need not be whole, channels of rows of columns, on a canvas, in the greys or colours of an image. */
export function toned(canvas, levels, spec) {
  const grey = greys(spec.levels), isColour = spec.channels === 3, size = spec.height * spec.width;
  canvas.width = spec.width;
  canvas.height = isColour ? spec.height : spec.height * spec.channels;
  const context = canvas.getContext("2d"), data = context.createImageData(canvas.width, canvas.height);
  levels.forEach((rows, c) =>
    rows.flat().forEach((level, at) => {
      const low = Math.min(spec.levels - 1, Math.max(0, Math.floor(level))), high = Math.min(spec.levels - 1, low + 1);
      const value = Math.round(grey[low] + (level - low) * (grey[high] - grey[low]));
      if (isColour) data.data[4 * at + c] = value;
      else data.data.fill(value, 4 * (c * size + at), 4 * (c * size + at) + 3);
      data.data[4 * (isColour ? at : c * size + at) + 3] = 255;
    }),
  );
  context.putImageData(data, 0, 0);
  return canvas;
}

/** RGBA of a PNG file in base64, as it is stored: no colour is managed, nothing is premultiplied. */
export async function pixelsOf(png) {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** Rows and columns of the pixels of a streamed row. */
export function places(row) {
  const [top, left] = row.first ?? [row.every * row.row, 0], [down, right] = row.step ?? [0, row.every];
  const index = Array.from(row.levels[0], (_, k) => k);
  return [index.map((k) => top + down * k), index.map((k) => left + right * k)];
}

/** How many times a picture of a width is shown so that it takes about as many pixels as wanted, a whole number of times. */
export const times = (width, wanted) => Math.max(1, Math.round(wanted / width));
