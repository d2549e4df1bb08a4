// Page 4: what images cost a version, beside its test images, and where in them. Further maps are entries of `MAPS`.

import { get, post } from "./api.js";
import * as charts from "./charts.js";
import { Notes, Task, button, choice, el, field } from "./dom.js";
import { dataBrowser, dropZone, fit, source } from "./images.js";
import * as models from "./models.js";

const WANTED = 168; // pixels of the screen for an image

/** Maps of an image: a name, what it tells, and how it is asked for: rows of columns of numbers for each image. */
const MAPS = {
  surprise: {
    text: "Surprise: the bits that each pixel costs, given those before it. Bright is unlikely.",
    unit: "bits",
    ask: async (body, signal) => (await post("/v1/scores", { ...body, map: true }, signal)).scores.map((one) => one.map_bits),
  },
};

export function make(section) {
  const model = models.picker(), map = choice(Object.keys(MAPS).map((name) => [name, name])), label = el("div", { className: "field" });
  const score = button("Score again", () => run(), { className: "first", disabled: true }), stop = button("Stop"), clear = button("Remove all", () => ((images = []), results.replaceChildren(), (score.disabled = true)));
  const notes = new Notes(), task = new Task(notes, score, stop), results = el("div", { className: "scores" });
  let images = []; // {name, file or png}

  const add = (more) => ((images = [...images, ...more].slice(-32)), run());

  async function options() {
    const info = await models.info(model.value).catch((error) => notes.fail(error));
    if (!info) return;
    label.replaceChildren(...(info.num_classes ? field("Class that they are given", models.classes(info)).childNodes : []));
    if (images.length) await run();
  }

  function run() {
    return task.run(async (signal) => {
      score.disabled = false;
      notes.say("Fitting the images to what the model sees …", 0.1);
      const info = await models.info(model.value, signal);
      const files = images.map((one) => one.file ?? new Blob([Uint8Array.from(atob(one.png), (letter) => letter.charCodeAt(0))]));
      const pngs = await fit(files, info.model, "image", signal);
      const picked = label.querySelector("select")?.value ?? "";
      const body = { model: info.model, images: pngs, ...(picked === "" ? {} : { label: Number(picked) }) };
      notes.say(`Scoring ${pngs.length} ${pngs.length === 1 ? "image" : "images"} …`, 0.4);
      const { scores } = await post("/v1/scores", body, signal);
      notes.say("Asking where the bits are …", 0.7);
      const maps = await MAPS[map.value].ask({ ...body, ...(info.num_orders > 1 ? { order: 0 } : {}) }, signal);
      const test = await get(`/v1/test_scores/${info.model}`, signal).catch((error) => {
        if (error.name === "AbortError") throw error;
        return { error: error.message };
      });
      show(info, pngs, scores, maps, test);
      notes.say(`${pngs.length} ${pngs.length === 1 ? "image" : "images"} scored by ${info.model}.`);
    });
  }

  function show(info, pngs, scores, maps, test) {
    const marks = scores.map((one, index) => [one.bits_per_dim, String(index + 1)]).filter(([value]) => Number.isFinite(value));
    const chart = test.error
      ? el("p", { className: "status" }, `No histogram of the test images: ${test.error}`)
      : el("figure", {}, charts.histogram(test, marks, `histogram of ${test.num_images} test images from ${test.edges[0].toFixed(2)} to ${test.edges.at(-1).toFixed(2)} bits/dim, mean ${test.mean.toFixed(3)}; the images given are marked`), el("figcaption", {}, `${test.num_images} test images: ${test.mean.toFixed(3)} bits/dim on average. Numbered lines are the images below.`));
    const most = Math.max(...maps.flat(2)), k = Math.max(1, Math.round(WANTED / info.width));
    const cards = scores.map((one, index) => {
      const image = el("img", { src: source(pngs[index]), alt: `image ${index + 1} as the model sees it` }), heat = charts.heat(el("canvas", { role: "img", "aria-label": `${map.value} map of image ${index + 1}; the brightest pixel costs ${Math.max(...maps[index].flat()).toFixed(1)} bits` }), maps[index], most);
      for (const made of [image, heat]) {
        made.style.width = `${k * info.width}px`;
        made.style.height = `${k * info.height}px`;
      }
      heat.addEventListener("pointermove", (event) => {
        const at = heat.getBoundingClientRect(), row = Math.floor(((event.clientY - at.top) * info.height) / at.height), column = Math.floor(((event.clientX - at.left) * info.width) / at.width);
        const value = maps[index][row]?.[column];
        if (value !== undefined) where.textContent = `row ${row}, column ${column}: ${value.toFixed(2)} ${MAPS[map.value].unit}`;
      });
      const where = el("p", { className: "status" }, "Point at the map to read a pixel.");
      const rank = test.error ? "" : rankOf(one.bits_per_dim, test.percentiles);
      return el(
        "article",
        { className: "card", "aria-label": `image ${index + 1}` },
        el("h2", {}, `${index + 1}. ${images[index].name}`),
        el("p", { className: "figure" }, `${one.bits_per_dim.toFixed(3)} bits/dim`),
        el("p", {}, `${one.nats.toFixed(1)} nats in all. ${rank}`),
        el("div", { className: "pair" }, image, heat),
        where,
      );
    });
    const order = info.num_orders > 1 ? " The map is of the raster order, the score of all orders mixed." : "";
    results.replaceChildren(chart, el("p", {}, `${MAPS[map.value].text} From 0 (dark) to ${most.toFixed(1)} ${MAPS[map.value].unit} (bright).${order}`), el("div", { className: "cards" }, ...cards));
  }

  model.addEventListener("change", options);
  map.addEventListener("change", () => images.length && run());
  section.append(
    el("h1", { id: "score-title" }, "Score and explain"),
    el(
      "div",
      { className: "card" },
      el("div", { className: "fields" }, el("div", { className: "wide" }, field("Model and version", model)), label, field("Map", map)),
      el(
        "div",
        { className: "give" },
        dropZone("Images, of any size and format", (files) => add(files.map((file) => ({ name: file.name, file }))), true),
        dataBrowser(() => model.value, (one) => add([{ name: one.label_name ?? one.key, png: one.image }])),
      ),
      el("p", { className: "actions" }, score, stop, clear),
      notes.node,
    ),
    results,
  );
  return options();
}

function rankOf(bits, percentiles) {
  const below = percentiles.filter((one) => one < bits).length;
  if (below >= percentiles.length) return "More than any test image.";
  return below === 0 ? "Less than any test image." : `About ${Math.min(99, below)} of 100 test images cost less.`;
}
