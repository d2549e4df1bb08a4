// Page 2: paint what is known of an image, and have the rest drawn.

import { Notes, Task, button, check, copy, el, field, number } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Editor } from "./editor.js";
import { dataBrowser, dropZone, fileOf, fit } from "./images.js";
import * as models from "./models.js";
import { Picture, pixelsOf } from "./pixels.js";
import { curl, python } from "./snippets.js";

const PATH = "/v1/completions";

export async function make(section) {
  const model = models.picker(), n = number(12, 1, 64), seed = number("", 0, 2 ** 31 - 1), temperature = number(1, 0.01, 100, 0.01);
  const label = el("div", { className: "field" });
  const draw = button("Complete", () => start(), { className: "first", disabled: true }), stop = button("Stop");
  const snippets = [
    button("Copy as curl", () => copy(curl(PATH, drawing.request.body), notes, "curl command"), { disabled: true }),
    button("Copy as Python", () => copy(python(PATH, drawing.request.body), notes, "Python program"), { disabled: true }),
  ];
  const notes = new Notes(), task = new Task(notes, draw, stop);
  const editor = new Editor(() => ((draw.disabled = !editor.known.includes(0)), unused.replaceChildren()));
  const drawing = new Drawing(), unused = el("div", { className: "unused" });
  const results = el("div", { className: "stage" }, unused, drawing.node);
  const work = el("div", { hidden: true }, editor.node);
  let png = null, file = null, spec = null; // what the model sees, of which file, and what it takes

  async function take(files) {
    await task.run(async (signal) => {
      notes.say("Fitting the image to what the model sees …");
      draw.disabled = true;
      file = files[0];
      const info = await models.info(model.value, signal);
      const [found] = await fit([file], info.model, "image", signal);
      await editor.load(found, info);
      [png, spec, work.hidden] = [found, info, false];
      editor.resize(); // there is room for it from now on
      label.replaceChildren(...(info.num_classes ? field("Class", models.classes(info)).childNodes : []));
      notes.say("This is what the model sees of it. Paint what is unknown, then complete it.");
    });
  }

  function start() {
    task.run(async (signal) => {
      check(n, seed, temperature);
      const picked = label.querySelector("select")?.value ?? "";
      const body = {
        model: spec.model,
        image: png,
        mask: editor.mask(),
        n: Number(n.value),
        seed: seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value),
        temperature: Number(temperature.value),
        ...(picked === "" ? {} : { label: Number(picked) }),
      };
      unused.replaceChildren();
      notes.say(`Drawing ${body.n} completions, seed ${body.seed} …`, 0);
      const began = performance.now(), info = spec;
      const start = await drawing.run(PATH, body, info, signal, (share, finished) => {
        notes.progress.value = share;
        if (drawing.started && !unused.childElementCount) tellUnused(drawing.started.drawn_by, info);
      });
      tellUnused(start.drawn_by, info);
      for (const one of snippets) one.disabled = false;
      notes.say(`${body.n} completions drawn in ${((performance.now() - began) / 1000).toFixed(1)} s, seed ${body.seed}.`);
    });
  }

  /** Which known pixels came too late in the order, and what that means. */
  async function tellUnused(drawnBy, info) {
    if (unused.childElementCount) return;
    const count = drawnBy?.num_unused ?? 0;
    const told = el("div", {}); // another drawing begins with one of its own
    unused.append(told);
    told.append(el("h2", {}, count ? `${count} known ${count === 1 ? "pixel" : "pixels"} the order could not use` : "Every known pixel was used"));
    if (!count) return;
    const orders = [...new Set(drawnBy.orders)].join(", "), made = new Picture(info, `which known pixels were not used: ${count}`);
    const values = await pixelsOf(drawnBy.unused);
    const context = made.canvas.getContext("2d");
    context.drawImage(editor.picture.canvas, 0, 0);
    const data = context.getImageData(0, 0, info.width, info.height);
    for (let at = 0; at < info.width * info.height; at++) if (values[4 * at]) data.data.set([190, 30, 160, 255], 4 * at);
    context.putImageData(data, 0, 0);
    made.scale(Math.max(1, Math.round(112 / info.width)));
    const why = `They come after unknown pixels in order ${orders}: what is drawn before them does not know of them. They stay as they are; here they are purple.`;
    const remedy = info.num_orders > 1 ? "" : " A model of several orders (docs/orders.md) can use more of them.";
    told.append(el("p", {}, `${why}${remedy}`), made.canvas);
  }

  model.addEventListener("change", () => file && take([file]));
  section.append(
    el("h1", { id: "complete-title" }, "Complete an image"),
    el(
      "div",
      { className: "card" },
      el("div", { className: "fields" }, el("div", { className: "wide" }, field("Model and version", model)), label, field("Completions", n), field("Seed", seed, "empty: a new one each time"), field("Temperature", temperature)),
      el("div", { className: "give" }, dropZone("An image, of any size and format", take), dataBrowser(() => model.value, (one) => take([fileOf(one.image)]), model)),
      work,
      el("p", { className: "actions" }, draw, stop, ...snippets),
      notes.node,
    ),
    results,
  );
}
