// Page 6: the training images that are nearest to an image by a layer of the model: did it copy?

import { events } from "./api.js";
import { Notes, Task, button, check, choice, el, field, number } from "./dom.js";
import { Drawing } from "./drawing.js";
import { dataBrowser, dropZone, fileOf, fit, source } from "./images.js";
import * as models from "./models.js";

const WANTED = 112;

export function make(section) {
  const model = models.picker(), layer = choice([["", "the last"]]), n = number(8, 1, 64), seed = number("", 0, 2 ** 31 - 1);
  const find = button("Find again", () => run(), { className: "first", disabled: true }), stop = button("Stop");
  const notes = new Notes(), task = new Task(notes, find, stop), results = el("div", { className: "stage" });
  let given = null; // {name, file}

  function drawOne() {
    return task.run(async (signal) => {
      check(n, seed);
      const info = await models.info(model.value, signal), drawing = new Drawing();
      results.replaceChildren(drawing.node);
      notes.say("Drawing an image …", 0);
      const start = await drawing.run("/v1/samples", { model: model.value, n: 1, seed: seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value) }, info, signal, (share) => (notes.progress.value = share));
      given = { name: `drawn, seed ${start.seed}`, file: fileOf(drawing.pictures[0].canvas.toDataURL("image/png").split(",")[1]) };
      await look(signal);
    });
  }

  const take = (name, file) =>
    task.run((signal) => {
      given = { name, file };
      return look(signal);
    });
  const run = () => task.run(look);

  async function look(signal) {
    check(n);
    find.disabled = false;
    notes.say("Fitting the image to what the model sees …");
    const asked = model.value, { name, file } = given, [png] = await fit([file], asked, "image", signal);
    notes.say("Looking through the training images …", 0);
    const body = { model: asked, image: png, n: Number(n.value), timeout_s: 600, ...(layer.value ? { layer: layer.value } : {}) };
    for await (const [kind, data] of events("/v1/neighbours", body, signal)) {
      if (kind === "progress") notes.say(`Looking through ${data.total} images …`, data.done / data.total);
      if (kind === "done") show(data, name, png);
    }
  }

  function show(found, name, png) {
    const chosen = layer.value || found.layer;
    layer.replaceChildren(...found.layers.map((name) => el("option", { value: name }, name)));
    layer.value = chosen;
    const first = found.neighbours[0].distance, median = found.test_percentiles[50];
    const share = found.share_of_test_nearer === null ? "" : ` ${(100 * found.share_of_test_nearer).toFixed(0)}% of ${found.num_test} test images are nearer to one of the training images than this image is.`;
    const typical = median === undefined ? "" : ` Test images are ${median.toFixed(3)} away from theirs (the median; 1% are nearer than ${found.test_percentiles[1].toFixed(3)}).`;
    const verdict = first === 0 ? "It is a training image, as far as this layer sees." : !found.test_percentiles.length ? "There are no test images to tell by how near is near." : first < found.test_percentiles[1] ? "Nearer than 99 of 100 test images: look whether it is a copy." : "No nearer than test images are: no sign of a copy by this layer.";
    results.replaceChildren(
      el("p", { className: "figure" }, verdict),
      el("p", {}, `The nearest training image is ${first.toFixed(3)} away.${typical}${share} ${found.num_train} of ${found.num_train_of} training images were compared, by layer ${found.layer} of ${found.model}.`),
      el("div", { className: "cards near" }, card(`the image: ${name}`, png), ...found.neighbours.map((one, index) => card(`${index + 1}. ${one.distance.toFixed(3)} away${one.label_name ? `, ${one.label_name}` : ""}`, one.image, one.key))),
    );
    notes.say(`${found.neighbours.length} neighbours by layer ${found.layer}.`);
  }

  function card(text, png, title = "") {
    const image = el("img", { src: source(png), alt: text, title });
    image.addEventListener("load", () => (image.style.width = `${Math.max(1, Math.round(WANTED / image.naturalWidth)) * image.naturalWidth}px`));
    return el("figure", { className: "card" }, image, el("figcaption", {}, text));
  }

  model.addEventListener("change", () => {
    layer.replaceChildren(el("option", { value: "" }, "the last"));
    if (given) run();
  });
  layer.addEventListener("change", () => given && run());
  section.append(
    el("h1", { id: "features-title" }, "Features: did it copy?"),
    el(
      "div",
      { className: "card" },
      el("p", {}, "The training images nearest to an image, by what a layer of the model makes of them. How near is near is told by the test images, which the model has not seen."),
      el("div", { className: "fields" }, el("div", { className: "wide" }, field("Model and version", model)), field("Layer", layer), field("Neighbours", n), field("Seed", seed, "of an image that is drawn")),
      el("div", { className: "give" }, dropZone("An image, of any size and format", (files) => take(files[0].name, files[0])), dataBrowser(() => model.value, (one) => take(one.label_name ?? one.key, fileOf(one.image)), model)),
      el("p", { className: "actions" }, button("Draw one and look", drawOne), find, stop),
      notes.node,
    ),
    results,
  );
}
