// Page 7: images drawn again a square at a time, each step as it comes.

import { events } from "./api.js";
import { Notes, Task, button, check, el, field, number } from "./dom.js";
import { Drawing, captionOf } from "./drawing.js";
import * as files from "./files.js";
import * as models from "./models.js";
import { Picture } from "./pixels.js";

const PATH = "/v1/samples";
const WANTED = 224; // pixels of the screen for an image
const FILE_SIDE = 112; // pixels of an image in a file, at least
const MOST_FRAMES = 256; // of a GIF
const PAUSE = 60; // ms between two steps that are shown again

/** Images of one dream: after each step they are kept, so that they can be shown again. */
class Dream extends Drawing {
  async run(body, info, signal, tell) {
    this.request = { path: PATH, body };
    this.prepare(info, body.n);
    this.steps = Array.from({ length: body.n }, () => []); // of each image: its levels after each step, channels x pixels
    let done = 0;
    for await (const [kind, data] of events(PATH, { ...body, stream: true, every: "image" }, signal)) {
      if (kind === "start") {
        this.started = data;
        this.caption.textContent = captionOf(data);
      } else if (kind === "image") {
        const picture = this.pictures[data.image], size = info.height * info.width;
        await picture.load(data.png); // one after the other: the last that is shown is the last that came
        if (signal.aborted) throw signal.reason;
        this.steps[data.image][data.step] = Array.from({ length: info.channels }, (_, c) => picture.levels.slice(c * size, (c + 1) * size));
        picture.canvas.setAttribute("aria-label", this.labelOf(data.image, data.step));
        if (data.step === body.dream) picture.canvas.dataset.finished = "true";
        tell(++done / (body.n * (body.dream + 1)), data.step);
      }
    }
  }

  /** The last step that any image has come to, 0 is the start; -1: none is there. */
  get last() {
    return Math.max(...this.steps.map((one) => one.length)) - 1;
  }

  /** All images after a step; one that did not come to it as far as it came. */
  show(step, pictures = this.pictures) {
    pictures.forEach((one, image) => {
      const at = Math.min(step, this.steps[image].length - 1);
      if (at < 0) return;
      one.fill(this.steps[image][at]);
      one.canvas.setAttribute("aria-label", this.labelOf(image, at));
    });
  }

  labelOf(image, step) {
    return `image ${image + 1} of ${this.pictures.length} after step ${step} of ${this.request.body.dream}`;
  }

  replay() {
    const pictures = this.pictures.map((one) => new Picture(one.spec, "")), last = this.last, frames = Math.min(MOST_FRAMES, last + 1);
    let at = 0;
    const next = () => {
      this.show(frames === 1 ? last : Math.round((at * last) / (frames - 1)), pictures);
      return ++at < frames;
    };
    return [pictures, next];
  }
}

export function make(section) {
  const model = models.picker(), label = el("div", { className: "field" });
  const n = number(4, 1, 16), seed = number("", 0, 2 ** 31 - 1), temperature = number(0.8, 0.01, 100, 0.01), region = number(3, 1, 64), steps = number(100, 1, 1000);
  const begin = button("Dream", () => start(), { className: "first" }), stop = button("Stop"), play = button("Play again", () => playIt(), { disabled: true });
  const slider = el("input", { type: "range", min: 0, max: 1, value: 0, disabled: true, oninput: () => show(Number(slider.value)) });
  const save = button("GIF", () => saveIt(), { disabled: true, "aria-label": "download as GIF" });
  const notes = new Notes(), task = new Task(notes, begin, stop), stage = el("div", { className: "stage" });
  let dream = null;

  async function options() {
    const info = await models.picked(model, (error) => notes.fail(error));
    if (!info) return;
    label.replaceChildren(...(info.num_classes ? field("Class", models.classes(info)).childNodes : []));
  }

  function asked() {
    check(n, seed, temperature, region, steps);
    const picked = label.querySelector("select")?.value ?? "";
    return {
      model: model.value,
      n: Number(n.value),
      seed: seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value),
      temperature: Number(temperature.value),
      dream: Number(steps.value),
      dream_region: Number(region.value),
      ...(picked === "" ? {} : { label: Number(picked) }),
    };
  }

  const start = () =>
    task.run(async (signal) => {
      const body = asked(), info = await models.info(body.model, signal), mine = (dream = new Dream("", WANTED));
      stage.replaceChildren(mine.node);
      enable();
      notes.say(`Drawing the start, seed ${body.seed}, then ${body.dream} steps …`, 0);
      slider.max = body.dream;
      at(0);
      try {
        await mine.run(body, info, signal, (share) => {
          notes.progress.value = share;
          at(Math.max(0, mine.last));
        });
        notes.say(`${captionOf(mine.started)}: ${body.dream} steps in squares of ${body.dream_region} x ${body.dream_region}.`);
      } finally {
        if (dream === mine) enable(); // else another one has begun
      }
    });

  /** Play and download what there is, after a stop, too. */
  function enable() {
    const last = dream.steps ? dream.last : -1, has = last >= 0 && Boolean(dream.started);
    for (const one of [play, slider, save]) one.disabled = !has;
    if (!has) return;
    slider.max = last;
    show(last);
  }

  function at(step) {
    slider.value = step;
    slider.setAttribute("aria-valuetext", step === 0 ? "the start" : `after step ${step}`);
    said.textContent = step === 0 ? "The start." : `After step ${step}.`;
  }

  function show(step) {
    dream.show(step);
    at(step);
  }

  const playIt = () =>
    task.run(async (signal) => {
      const mine = dream;
      notes.say("Playing …");
      for (let step = 0; step <= mine.last; step++) {
        show(step);
        await new Promise((go) => setTimeout(go, PAUSE));
        signal.throwIfAborted();
      }
      notes.say(`${captionOf(mine.started)}: ${mine.last} steps.`);
    });

  function saveIt() {
    const [pictures, next] = dream.replay();
    files.save(files.gif(pictures, Math.max(1, Math.ceil(FILE_SIDE / dream.info.width)), next), `dream-${dream.name}.gif`);
  }

  const said = el("p", { className: "status" });
  model.addEventListener("change", options);
  section.append(
    el("h1", { id: "dreams-title" }, "Dreams"),
    el(
      "form",
      { className: "card", onsubmit: (event) => (event.preventDefault(), start()) },
      el("p", {}, "The model draws images, then draws them again a square at a time: each step takes a pixel at random, and the square around it is drawn anew given what comes before it. At a temperature below 1, what the model takes to be typical remains."),
      el(
        "div",
        { className: "fields" },
        el("div", { className: "wide" }, field("Model and version", model)),
        label,
        field("Images", n),
        field("Seed", seed, "empty: a new one each time"),
        field("Temperature", temperature),
        field("Side of the squares", region, "pixels"),
        field("Steps", steps),
      ),
      el("p", { className: "actions" }, el("button", { type: "submit", hidden: true }), begin, stop, play, save),
      el("div", { className: "frames" }, field("Step", slider), said),
      notes.node,
    ),
    stage,
  );
  return options();
}
