// Page 1: watch one version draw, or two of them beside each other on the same seeds.

import { Notes, Task, button, check, copy, el, field, number } from "./dom.js";
import { Drawing, captionOf } from "./drawing.js";
import * as files from "./files.js";
import * as models from "./models.js";
import { curl, python } from "./snippets.js";

const PATH = "/v1/samples";
const FILE_TIMES = 4; // of an image in a file, by its width below this many pixels

export function make(section) {
  const first = models.picker(), second = models.picker("none");
  const n = number(16, 1, 64), seed = number("", 0, 2 ** 31 - 1);
  const temperature = number(1, 0.01, 100, 0.01), topP = number(1, 0.01, 1, 0.01), guidance = number(0, 0, 100, 0.1);
  const label = el("div", { className: "field" }), order = el("div", { className: "field" });
  const draw = button("Draw", () => start(), { className: "first" }), stop = button("Stop"), again = button("Again, same seed", () => start(last), { disabled: true });
  const keep = button("Keep", () => keepIt(), { disabled: true });
  const actions = {
    PNG: () => files.png(pictures(), times()).then((data) => files.save(data, `${name()}.png`)),
    NPZ: () => drawn.forEach((one) => files.save(files.npz(one.pictures), `${one.name}.npz`)), // one of each version
    GIF: () => {
      const replays = drawn.map((one) => one.replay());
      files.save(files.gif(replays.flatMap(([made]) => made), times(), () => replays.map(([, next]) => next()).some(Boolean)), `${name()}.gif`);
    },
  };
  const downloads = Object.entries(actions).map(([kind, action]) => button(kind, action, { disabled: true, "aria-label": `download as ${kind}` }));
  const snippets = [
    button("Copy as curl", () => copy(curl(PATH, bodyOf(drawn[0])), notes, "curl command"), { disabled: true }),
    button("Copy as Python", () => copy(python(PATH, bodyOf(drawn[0])), notes, "Python program"), { disabled: true }),
  ];
  const notes = new Notes(), task = new Task(notes, draw, stop);
  const stage = el("div", { className: "stage" }), kept = el("div", { className: "kept" }), keptTitle = el("h2", { hidden: true }, "Kept");
  let drawn = [], last = null;

  const pictures = () => drawn.flatMap((one) => one.pictures);
  const name = () => drawn.map((one) => one.name).join("-");
  const times = () => Math.max(1, Math.ceil((FILE_TIMES * 28) / drawn[0].info.width));
  const bodyOf = (one) => ({ ...one.request.body, seed: one.started?.seed ?? one.request.body.seed, model: one.started?.model ?? one.request.body.model });

  async function options() {
    const info = await models.picked(first, (error) => notes.fail(error));
    if (!info) return;
    label.replaceChildren(...(info.num_classes ? field("Class", models.classes(info)).childNodes : []));
    const orders = [["", "chosen for each image"], ...Array.from({ length: info.num_orders }, (_, k) => [k, `order ${k}`])];
    const list = el("select", {}, ...orders.map(([value, text]) => el("option", { value }, text)));
    order.replaceChildren(...(info.num_orders > 1 ? field("Order", list).childNodes : []));
    guidance.disabled = !(info.num_classes || info.vector_size || info.context_image || info.small_image);
  }

  function asked() {
    check(n, seed, temperature, topP, guidance);
    const picked = label.querySelector("select")?.value ?? "", ordered = order.querySelector("select")?.value ?? "";
    return {
      n: Number(n.value),
      seed: seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value),
      temperature: Number(temperature.value),
      top_p: Number(topP.value),
      ...(guidance.disabled || !Number(guidance.value) ? {} : { guidance: Number(guidance.value) }),
      ...(picked === "" ? {} : { label: Number(picked) }),
      ...(ordered === "" ? {} : { order: Number(ordered) }),
    };
  }

  function start(again = null) {
    task.run(async (signal) => {
      const body = again?.body ?? asked(), chosen = again?.chosen ?? [first.value, second.value].filter(Boolean);
      last = { body, chosen };
      drawn = chosen.map(() => new Drawing());
      stage.replaceChildren(...drawn.map((one) => one.node));
      stage.dataset.panels = drawn.length;
      enable(false);
      notes.say(`Drawing ${body.n} ${body.n === 1 ? "image" : "images"}, seed ${body.seed} …`, 0);
      const shares = drawn.map(() => 0), began = performance.now();
      try {
        const ends = await Promise.allSettled(
          drawn.map(async (one, index) => {
            const tell = (share) => {
              shares[index] = share;
              notes.progress.value = shares.reduce((sum, more) => sum + more) / shares.length;
            };
            await one.run(PATH, { model: chosen[index], ...body }, await models.info(chosen[index], signal), signal, tell);
          }),
        );
        const failed = ends.find((one) => one.status === "rejected");
        if (failed) throw failed.reason; // the other one was drawn to its end
        notes.say(`${drawn.map((one) => captionOf(one.started)).join(" beside ")}: drawn in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
      } finally {
        enable(drawn.every((one) => one.started));
      }
    });
  }

  function enable(has) {
    again.disabled = last === null;
    const whole = has && drawn.every((one) => one.isWhole);
    for (const one of snippets) one.disabled = !has;
    for (const one of downloads) one.disabled = !has;
    downloads[1].disabled = !whole; // levels that were not drawn are none
    keep.disabled = !has;
  }

  function keepIt() {
    for (const one of [...drawn].reverse()) {
      const made = new Drawing(captionOf(one.started)), request = last;
      made.isStrip = true;
      made.prepare(one.info, one.pictures.length, 56);
      made.pictures.forEach((copy, index) => {
        copy.context.drawImage(one.pictures[index].canvas, 0, 0);
        copy.canvas.setAttribute("aria-label", `kept ${one.pictures[index].canvas.getAttribute("aria-label")}`);
      });
      const bar = el(
        "p",
        { className: "actions" },
        button("Draw again", () => start(request)),
        button("Remove", () => {
          made.node.remove();
          keptTitle.hidden = !kept.childElementCount;
        }),
      );
      made.node.append(bar);
      kept.prepend(made.node);
    }
    keptTitle.hidden = false;
    notes.say("Kept below, until the page is closed.");
  }

  first.addEventListener("change", options);
  section.append(
    el("h1", { id: "watch-title" }, "Watch it draw"),
    el(
      "form",
      { className: "card", onsubmit: (event) => (event.preventDefault(), start()) },
      el(
        "div",
        { className: "fields" },
        el("div", { className: "wide" }, field("Model and version", first)),
        el("div", { className: "wide" }, field("Beside it, on the same seeds", second)),
        field("Images", n),
        field("Seed", seed, "empty: a new one each time"),
        label,
        field("Temperature", temperature),
        field("Top-p", topP),
        field("Guidance", guidance),
        order,
      ),
      el("p", { className: "actions" }, el("button", { type: "submit", hidden: true }), draw, stop, again, keep, ...downloads, ...snippets),
      notes.node,
    ),
    stage,
    keptTitle,
    kept,
  );
  return options();
}
