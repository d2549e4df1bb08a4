// Files for download: PNG of all images, NPZ of their levels, GIF of the drawing.

import { GIFEncoder, applyPalette, quantize } from "./vendor/gifenc.js";
import { el } from "./dom.js";

export function save(data, name, type) {
  const url = URL.createObjectURL(data instanceof Blob ? data : new Blob([data], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const LINE = 2; // pixels between two images

/** All pictures in one canvas, `times` as large, in about as many columns as rows. */
export function grid(pictures, times) {
  const columns = Math.ceil(Math.sqrt(pictures.length)), rows = Math.ceil(pictures.length / columns);
  const { width, height } = pictures[0].canvas, canvas = new OffscreenCanvas(1, 1);
  canvas.width = columns * (times * width + LINE) - LINE;
  canvas.height = rows * (times * height + LINE) - LINE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  pictures.forEach((one, index) => {
    const left = (index % columns) * (times * width + LINE), top = Math.floor(index / columns) * (times * height + LINE);
    context.drawImage(one.canvas, left, top, times * width, times * height);
  });
  return canvas;
}

export const png = (pictures, times) => grid(pictures, times).convertToBlob({ type: "image/png" });

/** A NumPy archive with `images_NCHW`, as the service's own `format: npz` has it. */
export function npz(pictures) {
  const { channels, height, width } = pictures[0].spec;
  const text = `{'descr': '|u1', 'fortran_order': False, 'shape': (${pictures.length}, ${channels}, ${height}, ${width}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const start = Uint8Array.from([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8, ...new TextEncoder().encode(header)]);
  const array = new Uint8Array(start.length + pictures.length * channels * height * width);
  array.set(start);
  pictures.forEach((one, index) => array.set(one.levels, start.length + index * channels * height * width));
  return zip("images_NCHW.npy", array);
}

/** A ZIP archive of one file, stored as it is. */
function zip(name, data) {
  const title = new TextEncoder().encode(name), sum = crc32(data);
  const common = (view, at) => {
    view.setUint16(at, 20, true); // version that is needed; then flags, method (0: stored) and time are 0
    view.setUint16(at + 8, 0x21, true); // 1980-01-01
    view.setUint32(at + 10, sum, true);
    view.setUint32(at + 14, data.length, true);
    view.setUint32(at + 18, data.length, true);
    view.setUint16(at + 22, title.length, true);
  };
  const local = new DataView(new ArrayBuffer(30)), central = new DataView(new ArrayBuffer(46)), end = new DataView(new ArrayBuffer(22));
  local.setUint32(0, 0x04034b50, true);
  common(local, 4);
  central.setUint32(0, 0x02014b50, true);
  central.setUint16(4, 20, true);
  common(central, 6);
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, 1, true);
  end.setUint16(10, 1, true);
  end.setUint32(12, 46 + title.length, true);
  end.setUint32(16, 30 + title.length + data.length, true);
  return new Blob([local, title, data, central, title, end], { type: "application/x-npz" });
}

function crc32(data) {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n;
  });
  let sum = ~0;
  for (const byte of data) sum = (sum >>> 8) ^ table[(sum ^ byte) & 255];
  return ~sum >>> 0;
}

/** A GIF that shows a drawing again: `replay` draws the next part of it on the pictures and says whether there is more. */
export function gif(pictures, times, replay) {
  const encoder = GIFEncoder();
  let more = true;
  while (more) {
    more = replay();
    const canvas = grid(pictures, times), { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const [index, palette] = indexed(data);
    encoder.writeFrame(index, width, height, { palette, delay: more ? 60 : 2000 });
  }
  encoder.finish();
  return new Blob([encoder.bytes()], { type: "image/gif" });
}

/** The colours of an image as a palette, exactly where there are no more than a GIF has; which of them each pixel is. */
function indexed(data) {
  const places = new Map(), words = new Uint32Array(data.buffer, data.byteOffset, data.length / 4), index = new Uint8Array(words.length);
  for (let at = 0; at < words.length; at++) {
    let place = places.get(words[at]);
    if (place === undefined) {
      if (places.size === 256) {
        const palette = quantize(data, 256);
        return [applyPalette(data, palette), palette];
      }
      places.set(words[at], (place = places.size));
    }
    index[at] = place;
  }
  return [index, [...places.keys()].map((word) => [word & 255, (word >> 8) & 255, (word >> 16) & 255])];
}
