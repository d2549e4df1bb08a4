// Page 4: what images cost a version, beside its test images; what it expected of each pixel, and because of which others.

import { get, post } from "./api.js";
import { Board } from "./board.js";
import * as charts from "./charts.js";
import { Notes, Task, button, check, el, field, greatest, number } from "./dom.js";
import { dataBrowser, dropZone, fileOf, fit } from "./images.js";
import * as models from "./models.js";
import { Picture, times, toned } from "./pixels.js";

const MOST_IMAGES = 32; // on the page at a time
const WANTED = 168; // pixels of the screen for an image
const KINDS = ["context_image", "small_image"]; // what a version may be given of an image
const OWN = "own";

export function make(section) {
  const model = models.picker(), label = el("div", { className: "field" }), order = el("div", { className: "field" });
  const passes = number(127, 1, 65536);
  const score = button("Score again", () => run(), { className: "first", disabled: true }), stop = button("Stop"), clear = button("Remove all", () => remove());
  const notes = new Notes(), task = new Task(notes, score, stop), results = el("div", { className: "scores" });
  let images = [], cards = []; // {name, file, label and the data set that it is of}; tasks of the images that are shown

  const add = (more) => ((images = [...images, ...more]), run());

  function remove() {
    for (const one of [task, ...cards]) one.controller?.abort();
    [images, cards] = [[], []];
    results.replaceChildren();
    score.disabled = true;
  }

  async function options() {
    const info = await models.picked(model, (error) => notes.fail(error));
    if (!info) return;
    passes.value = Math.max(127, 1 + 4 * (info.levels - 1)); // the nearest pixels at least, each of which takes one for each level
    const classes = info.num_classes ? models.classes(info) : null;
    classes?.firstChild.after(el("option", { value: OWN }, "their own, where the data set tells it"));
    label.replaceChildren(...(classes ? field("Given class", classes).childNodes : []));
    const orders = Array.from({ length: info.num_orders }, (_, k) => el("option", { value: k }, `order ${k}`));
    order.replaceChildren(...(info.num_orders > 1 ? field("Order of the maps", el("select", {}, ...orders)).childNodes : []));
    if (images.length) await run();
  }

  /** What an image is scored and explained with: what the version is given of it, and its class. */
  async function bodyOf(info, image, picked, signal) {
    const [png] = await fit([image.file], info.model, "image", signal), body = { model: info.model, images: [png] };
    for (const kind of KINDS) if (info[kind]) [body[kind]] = await fit([image.file], info.model, kind, signal);
    const own = picked !== OWN ? picked : image.dataset === models.version(info.model)?.dataset ? image.label : null; // others number theirs in another way
    return own === "" || own === null || own === undefined ? body : { ...body, label: Number(own) };
  }

  function run() {
    return task.run(async (signal) => {
      score.disabled = false;
      const left = images.slice(0, -MOST_IMAGES), mine = (images = images.slice(-MOST_IMAGES)), found = [], wrong = [], picked = label.querySelector("select")?.value ?? "", ordered = order.querySelector("select")?.value ?? "";
      notes.say("Asking what the version takes …", 0);
      const info = await models.info(model.value, signal), by = info.num_orders > 1 ? { order: Number(ordered) } : {};
      for (const [index, image] of mine.entries()) {
        notes.say(`Scoring and explaining image ${index + 1} of ${mine.length} …`, index / mine.length);
        const body = await bodyOf(info, image, picked, signal).catch((error) => {
          if (!error.field?.startsWith("files")) throw error;
          images = images.filter((one) => one !== image); // or nothing would be scored from now on
          wrong.push(`${image.name} is left out. ${error.message}`);
        });
        if (!body) continue;
        const { explanations } = await post("/v1/explanations", { ...body, ...by }, signal);
        const unlike = await post("/v1/scores", { ...body, p_value: true }, signal).catch(failed);
        const mixed = unlike.scores ?? (info.num_orders > 1 ? (await post("/v1/scores", body, signal)).scores : explanations); // of one order they say the same
        found.push({ name: image.name, body: { ...body, ...by }, score: mixed[0], unlike, maps: explanations[0], picture: await new Picture(info, `image ${index + 1} as the model sees it`).load(body.images[0]) });
      }
      const test = await get(`/v1/test_scores/${info.model}`, signal).catch(failed);
      show(info, found, test);
      const before = left.length ? ` The ${left.length} given first ${left.length === 1 ? "is" : "are"} left out: ${MOST_IMAGES} are shown at a time.` : "";
      notes.say(`${found.length} ${found.length === 1 ? "image" : "images"} scored by ${info.model}.${before}`);
      if (wrong.length) notes.fail(new Error(wrong.join(" ")));
    });
  }

  function show(info, found, test) {
    cards.forEach((one) => one.controller?.abort());
    cards = [];
    results.replaceChildren();
    if (!found.length) return;
    const marks = found.map(({ score: one }, index) => [one.bits_per_dim, String(index + 1)]).filter(([value]) => Number.isFinite(value));
    const chart = test.error
      ? el("p", { className: "status" }, `No histogram of the test images: ${test.error}`)
      : el("figure", {}, charts.histogram(test, marks, `histogram of ${test.num_images} test images from ${test.edges[0].toFixed(2)} to ${test.edges.at(-1).toFixed(2)} bits/dim, mean ${test.mean.toFixed(3)}; the images given are marked`), el("figcaption", {}, `${test.num_images} test images: ${test.mean.toFixed(3)} bits/dim on average. Numbered lines are the images below.`));
    const most = greatest(found.flatMap(({ maps }) => [...maps.surprise_bits, ...maps.entropy_bits]).flat());
    const told = info.num_orders > 1 ? ` The maps are of order ${found[0].body.order}, the score of all orders mixed.` : "";
    const made = found.map((one, index) => card(info, one, index, most, test));
    cards = made.map((one) => one.task);
    results.replaceChildren(
      chart,
      el("p", {}, `Surprise is what each pixel costs given those before it; entropy is what it costs on average over all that the model holds possible there. One scale for all images.${told}`),
      el("p", { id: "score-keys" }, "Point at a pixel to read it, and click to see on which earlier pixels its prediction depends. With the keyboard: arrows on the map of surprise, then Enter."),
      el("div", { className: "cards explained" }, ...made.map((one) => one.node)),
    );
  }

  /** One image: its score, its maps, and a place for the maps of the pixel that is asked about. */
  function card(info, { name, body, score: cost, unlike, maps, picture }, index, most, test) {
    const where = el("p", { className: "status", role: "status" }), place = el("div"), said = new Notes(), cancel = button("Stop"), mine = new Task(said, null, cancel);
    let depends = null;
    const board = new Board(info, times(info.width, WANTED), tell, depend);

    function tell(row, column) {
      const levels = (values) => values.map((channel) => channel[row][column]), at = row * info.width + column;
      const own = Array.from({ length: info.channels }, (_, c) => picture.levels[c * info.height * info.width + at]);
      const parts = [`level ${own.join(", ")}`, `surprise ${maps.surprise_bits[row][column].toFixed(2)} bits`, `entropy ${maps.entropy_bits[row][column].toFixed(2)} bits`, `expected ${levels(maps.expected).map((one) => one.toFixed(2)).join(", ")}`, `likeliest ${levels(maps.likeliest).join(", ")}`];
      if (depends) {
        const bits = depends.occlusion[row][column];
        parts.push(`gradient ${short(depends.gradient[row][column])} bits a level`, bits === null ? "occlusion not looked at" : `occlusion ${short(bits)} bits`);
      }
      where.textContent = `Row ${row}, column ${column}: ${parts.join("; ")}.`;
    }

    function depend(row, column) {
      return mine.run(async (signal) => {
        cancel.hidden = false;
        try {
          check(passes);
          said.wait(`Asking on what pixel (${row}, ${column}) depends …`);
          const { explanations } = await post("/v1/explanations", { ...body, pixel: [row, column], most_passes: Number(passes.value) }, signal);
          depends = { gradient: largest(explanations[0].gradient_bits_per_level), occlusion: largest(explanations[0].occlusion_bits) };
          said.say("");
          showDepends(row, column);
        } finally {
          cancel.hidden = !mine.controller || mine.controller.signal === signal;
        }
      });
    }

    function showDepends(row, column) {
      const { gradient, occlusion } = depends, unseen = occlusion.flat().filter((value) => value === null).length;
      const steepest = greatest(gradient.flat()), dearest = greatest(occlusion.flat());
      const left = unseen ? ` ${unseen} ${unseen === 1 ? "pixel was" : "pixels were"} not looked at (striped): more passes look at more.` : "";
      const none = steepest === 0 && dearest === 0 && !unseen ? " It depends on none: it is drawn without knowing any other pixel, or the model does not look at them." : "";
      const many = info.channels > 1 ? " Of its channels each pixel shows the one that counts most." : "";
      board.keep(found.childElementCount);
      place.replaceChildren(
        el("h3", {}, `On what pixel (${row}, ${column}) depends`),
        el("p", {}, `Gradient: how steeply the bits of the marked pixel change with each pixel before it. Occlusion: how many bits more it would cost on average if that pixel were not known.${none}${left}${many}`),
        el("div", { className: "maps" }, heat("gradient", "Gradient", gradient, steepest, "bits a level"), heat("occlusion", "Occlusion", occlusion, dearest, "bits")),
      );
      board.ask(row, column);
      tell(...board.cursor);
    }

    function map(kind, title, canvas, bar) {
      canvas.dataset.map = kind;
      return el("figure", {}, board.frame(canvas), bar, el("figcaption", {}, title));
    }
    const named = (text) => el("canvas", { role: "img", "aria-label": `${text} of image ${index + 1}` });
    const heat = (kind, title, rows, brightest, unit) => map(kind, title, charts.heat(named(`${kind}, at most ${short(greatest(rows.flat()))} ${unit},`), rows, brightest), charts.colourBar(short(brightest), unit));
    const tone = (kind, title, canvas) => map(kind, title, canvas, charts.colourBar(info.levels - 1, "levels", true));
    const sum = (rows) => rows.flat().reduce((one, more) => one + more, 0).toFixed(2);
    const surprise = heat("surprise", `Surprise: ${sum(maps.surprise_bits)} bits in all`, maps.surprise_bits, most, "bits");
    const found = el(
      "div",
      { className: "maps" },
      tone("image", "The image", picture.canvas),
      surprise,
      heat("entropy", `Entropy: ${sum(maps.entropy_bits)} bits in all`, maps.entropy_bits, most, "bits"),
      tone("expected", "Expected: the mean", toned(named("expected levels"), maps.expected, info)),
      tone("likeliest", "Likeliest level", toned(named("likeliest levels"), maps.likeliest, info)),
    );
    board.listen(surprise.querySelector("canvas"), "score-keys");
    cancel.hidden = true;
    const rank = test.error ? "" : rankOf(cost.bits_per_dim, test.percentiles);
    const node = el(
      "article",
      { className: "card", "aria-label": `image ${index + 1}` },
      el("h2", {}, `${index + 1}. ${name}`),
      el("p", { className: "figure" }, `${cost.bits_per_dim.toFixed(3)} bits/dim`),
      el("p", {}, `${(cost.nats / Math.LN2).toFixed(2)} bits (${cost.nats.toFixed(1)} nats) in all. ${rank}`),
      el("p", {}, `${pValueOf(unlike)} ${sizeOf(cost, body.images[0])}`),
      found,
      where,
      said.node,
      cancel,
      place,
    );
    return { node, task: mine };
  }

  model.addEventListener("change", options);
  section.append(
    el("h1", { id: "score-title" }, "Score and explain"),
    el(
      "div",
      { className: "card" },
      el("div", { className: "fields" }, el("div", { className: "wide" }, field("Model and version", model)), label, order, field("Passes for a pixel", passes, "more look farther, and take longer")),
      el(
        "div",
        { className: "give" },
        dropZone("Images, of any size and format", (files) => add(files.map((file) => ({ name: file.name, file }))), true),
        dataBrowser(() => model.value, (one) => add([{ name: one.label_name ?? one.key, label: one.label, dataset: models.version(model.value)?.dataset, file: fileOf(one.image) }]), model),
      ),
      el("p", { className: "actions" }, score, stop, clear),
      notes.node,
    ),
    results,
  );
  return options();
}

const short = (value) => (value === 0 ? "0" : value.toPrecision(3));

/** What is shown in place of what the service cannot tell; whoever stops it stops all. */
function failed(error) {
  if (error.name === "AbortError") throw error;
  return { error: error.message };
}

function pValueOf({ error, scores, num_normal: num }) {
  if (error) return `No p-value: ${error.replace(/\.$/, "")}.`;
  const { p_value: p, arrangement_bits: bits } = scores[0];
  return `Anomaly p-value ${p.toPrecision(2)}: of ${num} test images and this one, ${Math.round(p * (num + 1))} ${Math.round(p * (num + 1)) === 1 ? "is" : "are"} at least as unlike the others (arrangement ${bits.toFixed(1)} bits).`;
}

/** Its size by the model, which an encoder reaches within a percent, and as the PNG file that was sent. */
function sizeOf({ nats }, png) {
  const bytes = Math.ceil(nats / Math.LN2 / 8), letters = png.replace(/=+$/, "").length;
  return `Compressed by this model: about ${bytes} bytes; as a PNG file ${Math.floor((letters * 3) / 4)}.`;
}

/** Of channels of rows of columns the one that counts most; null where none was looked at. */
function largest(channels) {
  return channels[0].map((row, r) => row.map((_, c) => {
    const seen = channels.map((channel) => channel[r][c]).filter((value) => value !== null);
    return seen.length ? Math.max(...seen) : null;
  }));
}

function rankOf(bits, percentiles) {
  const below = percentiles.filter((one) => one < bits).length;
  if (below >= percentiles.length) return "More than any test image.";
  return below === 0 ? "Less than any test image." : `About ${Math.min(99, below)} of 100 test images cost less.`;
}
