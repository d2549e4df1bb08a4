// Small pictures of numbers: a histogram with marks, bars of an error, a map of what pixels cost.

import { el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const text = (props, words) => svg("text", props, words);

/** Bars of counts between edges; `marks` are [value, name] of lines across it, numbered in their order. */
export function histogram({ counts, edges }, marks, label) {
  const width = 640, height = 200, foot = 34, head = 32, left = 6, right = 6;
  const low = Math.min(edges[0], ...marks.map(([value]) => value)), high = Math.max(edges.at(-1), ...marks.map(([value]) => value));
  const x = (value) => left + ((width - left - right) * (value - low)) / (high - low || 1), most = Math.max(...counts, 1);
  const bars = counts.map((count, k) => {
    const tall = ((height - head - foot) * count) / most;
    return svg("rect", { class: "bar", x: x(edges[k]), y: height - foot - tall, width: Math.max(0.5, x(edges[k + 1]) - x(edges[k]) - 1), height: tall });
  });
  const lines = marks.flatMap(([value], index) => [svg("line", { class: "mark", x1: x(value), x2: x(value), y1: head, y2: height - foot }), text({ class: "mark", x: x(value), y: head - 6 - 12 * (index % 2), "text-anchor": "middle" }, String(index + 1))]);
  const ticks = Array.from({ length: 5 }, (_, k) => low + ((high - low) * k) / 4);
  const axis = ticks.map((value, k) => text({ x: x(value), y: height - foot + 15, "text-anchor": k === 0 ? "start" : k === 4 ? "end" : "middle" }, value.toFixed(2)));
  const name = text({ x: width / 2, y: height - 4, "text-anchor": "middle" }, "bits/dim of the test images");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" }, ...bars, svg("line", { class: "axis", x1: left, x2: width - right, y1: height - foot, y2: height - foot }), ...lines, ...axis, name);
}

/** A value with its error, on a scale that all rows of a table share. */
export function errorBar(value, error, low, high, label) {
  const width = 160, height = 18, x = (at) => 4 + ((width - 8) * (at - low)) / (high - low || 1);
  const parts = [svg("line", { class: "axis", x1: 4, x2: width - 4, y1: 9, y2: 9 })];
  if (error) parts.push(svg("line", { class: "error-bar", x1: x(value - 2 * error), x2: x(value + 2 * error), y1: 9, y2: 9 }));
  parts.push(svg("circle", { class: "dot", cx: x(value), cy: 9, r: 4 }));
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "error-bars", width, height }, ...parts);
}

// From dark to bright, alike for all who see colours differently (cividis, by seven of its colours).
const HEAT = [[0, 32, 76], [38, 64, 108], [87, 92, 109], [124, 123, 120], [166, 157, 117], [211, 193, 99], [255, 234, 70]];

/** The colour, 0..255 each, of a share of the way from dark to bright. */
function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (HEAT.length - 1), k = Math.min(HEAT.length - 2, Math.floor(at));
  return HEAT[k].map((from, c) => Math.round(from + (at - k) * (HEAT[k + 1][c] - from)));
}

/** Numbers in rows of columns as pixels of a canvas, `most` is the brightest; null is left out, and what is behind the canvas is seen. */
export function heat(canvas, rows, most) {
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const context = canvas.getContext("2d"), data = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, at) => value !== null && data.data.set([...colour(value / (most || 1)), 255], 4 * at));
  context.putImageData(data, 0, 0);
  return canvas;
}

const BAR = 64; // colours of a bar

/** A bar of the colours of a map with the numbers at its ends and their unit; `isGrey`, of black to white. */
export function colourBar(most, unit, isGrey = false) {
  const canvas = el("canvas", { width: BAR, height: 1, "aria-hidden": "true" }), context = canvas.getContext("2d"), data = context.createImageData(BAR, 1);
  for (let at = 0; at < BAR; at++) data.data.set([...(isGrey ? Array(3).fill((255 * at) / (BAR - 1)) : colour(at / (BAR - 1))), 255], 4 * at);
  context.putImageData(data, 0, 0);
  return el("div", { className: "bar-of-colours" }, canvas, el("span", {}, "0"), el("span", {}, `${most} ${unit}`));
}
