// Page 3: versions that are given something: grey images to colour, small ones to enlarge, and what is between two classes or seeds.

import { Notes, Task, button, check, copy, el, field, number } from "./dom.js";
import { Drawing } from "./drawing.js";
import { dataBrowser, dropZone, fileOf, fit, source } from "./images.js";
import * as models from "./models.js";
import { curl, python } from "./snippets.js";

const PATH = "/v1/samples", STEPS = 9, AT_ONCE = 3;
const anySeed = () => Math.floor(Math.random() * 2 ** 31);

export function make(section) {
  const model = models.picker(), said = el("p", { className: "status" });
  const parts = el("div", {});
  model.addEventListener("change", show);
  section.append(
    el("h1", { id: "given-title" }, "Colour, enlarge, interpolate"),
    el("div", { className: "card" }, el("div", { className: "fields" }, el("div", { className: "wide" }, field("Model and version", model))), said),
    parts,
  );

  async function show() {
    parts.querySelectorAll(".stop").forEach((one) => one.click()); // what is drawn for the version before is not wanted any more
    parts.replaceChildren();
    said.textContent = "Asking what this version takes …";
    const info = await models.picked(model, (error) => (said.textContent = error.message));
    if (!info) return;
    const kinds = [info.num_classes && `a class of ${info.num_classes}`, info.vector_size && `a vector of ${info.vector_size} numbers`, info.context_image && "a grey image", info.small_image && `a small image of ${info.small_image[1]} x ${info.small_image[2]}`];
    const given = kinds.filter(Boolean).join(", ");
    said.textContent = given ? `This version is given ${given}.` : "This version is given nothing: there is something between two seeds only. Versions are trained to be given a class, a grey or a small image with the field condition_on of a recipe (docs/recipes.md).";
    const cards = [info.context_image && fromImage(info, "context_image", "Colour", "grey"), info.small_image && fromImage(info, "small_image", "Enlarge", "small"), between(info)];
    parts.replaceChildren(...cards.filter(Boolean));
  }
  return show();
}

/** A card that makes of an image what the version is given, and draws from that. */
function fromImage(info, kind, title, what) {
  const n = number(8, 1, 64), seed = number("", 0, 2 ** 31 - 1), temperature = number(1, 0.01, 100, 0.01);
  const draw = button(title, start, { className: "first", disabled: true }), stop = button("Stop", () => {}, { className: "stop" });
  const snippets = [button("Copy as curl", () => copy(curl(PATH, drawing.request.body), notes, "curl command"), { disabled: true }), button("Copy as Python", () => copy(python(PATH, drawing.request.body), notes, "Python program"), { disabled: true })];
  const notes = new Notes(), task = new Task(notes, draw, stop), drawing = new Drawing();
  const before = el("div", { className: "pair" }), [, height, width] = info[kind];
  let png = null;

  function take(files) {
    return task.run(async (signal) => {
      notes.say("Fitting the image …");
      const [whole] = await fit(files, info.model, "image", signal);
      [png] = await fit(kind === "context_image" ? [fileOf(whole)] : files, info.model, kind, signal);
      draw.disabled = false;
      const show = (image, alt, columns) => {
        const made = el("img", { src: source(image), alt });
        made.style.width = `${Math.max(1, Math.round(112 / columns)) * columns}px`;
        return made;
      };
      before.replaceChildren(show(whole, "the image as the model would see it", info.width), show(png, `the ${what} image that it is given`, width));
      notes.say(`The image, and the ${what} one that the model is given (${height} x ${width}).`);
    });
  }

  function start() {
    return task.run(async (signal) => {
      check(n, seed, temperature);
      const body = { model: info.model, n: Number(n.value), seed: seed.value === "" ? anySeed() : Number(seed.value), temperature: Number(temperature.value), [kind]: png };
      notes.say(`Drawing ${body.n} images, seed ${body.seed} …`, 0);
      await drawing.run(PATH, body, info, signal, (share) => (notes.progress.value = share));
      for (const one of snippets) one.disabled = false;
      notes.say(`${body.n} images drawn, seed ${body.seed}.`);
    });
  }

  return el(
    "section",
    { className: "card part", "aria-label": title },
    el("h2", {}, title),
    el("div", { className: "give" }, dropZone(`An image to make ${what}`, take), dataBrowser(() => info.model, (one) => take([fileOf(one.image)]))),
    before,
    el("div", { className: "fields" }, field("Images", n), field("Seed", seed, "empty: a new one each time"), field("Temperature", temperature)),
    el("p", { className: "actions" }, draw, stop, ...snippets),
    notes.node,
    drawing.node,
  );
}

/** A card with a slider from one class, or seed, to another. */
function between(info) {
  const from = number(1, 0, 2 ** 31 - 1), to = number(1, 0, 2 ** 31 - 1), slider = el("input", { type: "range", min: 0, max: STEPS - 1, step: 1, value: 0, disabled: true });
  const classFrom = models.classes(info), classTo = models.classes(info);
  if (info.num_classes > 1) [classFrom.value, classTo.value] = ["0", "1"];
  else to.value = 2;
  const draw = button("Draw the way", start, { className: "first" }), stop = button("Stop", () => {}, { className: "stop" });
  const snippets = [button("Copy as curl", () => copy(curl(PATH, bodies[slider.value]), notes, "curl command"), { disabled: true }), button("Copy as Python", () => copy(python(PATH, bodies[slider.value]), notes, "Python program"), { disabled: true })];
  const notes = new Notes(), task = new Task(notes, draw, stop), shown = el("div", { className: "images one" }), strip = el("div", { className: "images" });
  const where = el("p", { className: "status", role: "status" });
  let drawings = [], bodies = [];

  function asked() {
    check(from, to);
    const toward = {};
    if (to.value !== from.value) toward.seed = Number(to.value);
    const body = { model: info.model, n: 1, seed: Number(from.value) };
    if (info.num_classes && classFrom.value !== "") body.label = Number(classFrom.value);
    if (info.num_classes && classTo.value !== "" && classTo.value !== classFrom.value) toward.label = Number(classTo.value);
    if (!Object.keys(toward).length) throw new Error("Both ends are the same. Choose another class, or another seed, to go to.");
    return Array.from({ length: STEPS }, (_, k) => ({ ...body, toward: { ...toward, share: k / (STEPS - 1) } }));
  }

  function start() {
    return task.run(async (signal) => {
      bodies = asked();
      drawings = bodies.map(() => new Drawing());
      strip.replaceChildren();
      shown.replaceChildren();
      slider.disabled = true;
      notes.say(`Drawing ${STEPS} images on the way …`, 0);
      let done = 0;
      const queue = bodies.map((_, index) => index);
      const worker = async () => {
        for (let index = queue.shift(); index !== undefined; index = queue.shift()) {
          await drawings[index].run(PATH, bodies[index], info, signal);
          notes.progress.value = ++done / STEPS;
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, worker));
      drawings.forEach((one, index) => {
        const canvas = one.pictures[0].canvas;
        one.pictures[0].scale(Math.max(1, Math.round(56 / info.width)));
        canvas.setAttribute("aria-label", `${Math.round((100 * index) / (STEPS - 1))}% of the way`);
        strip.append(canvas);
      });
      for (const one of snippets) one.disabled = false;
      slider.disabled = false;
      slide();
      notes.say("Drawn. Move the slider to go from one end to the other.");
    });
  }

  function slide() {
    const index = Number(slider.value), picture = drawings[index].pictures[0];
    const copy = el("canvas", { width: picture.canvas.width, height: picture.canvas.height, role: "img", "aria-label": `${Math.round((100 * index) / (STEPS - 1))}% of the way` });
    copy.getContext("2d", { willReadFrequently: true }).drawImage(picture.canvas, 0, 0);
    const k = Math.max(1, Math.round(224 / info.width));
    copy.style.width = `${k * copy.width}px`;
    copy.style.height = `${k * copy.height}px`;
    shown.replaceChildren(copy);
    where.textContent = `${Math.round((100 * index) / (STEPS - 1))}% of the way`;
    slider.setAttribute("aria-valuetext", where.textContent);
  }

  slider.addEventListener("input", slide);
  const ends = info.num_classes ? [field("From class", classFrom), field("To class", classTo)] : [];
  return el(
    "section",
    { className: "card part", "aria-label": "Interpolate" },
    el("h2", {}, "Interpolate"),
    el("p", {}, "From one class to another, what the model makes of both is mixed. From one seed to another their noise is mixed, so that every image on the way is an exact sample too."),
    el("div", { className: "fields" }, ...ends, field("From seed", from), field("To seed", to, "the same: the noise stays")),
    el("p", { className: "actions" }, draw, stop, ...snippets),
    notes.node,
    field("On the way", slider),
    where,
    shown,
    strip,
  );
}
