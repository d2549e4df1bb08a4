// Page 5: all versions with their figures, samples of each on one seed, and how champions came to be.

import { Notes, Task, button, el, field, number } from "./dom.js";
import { Drawing } from "./drawing.js";
import * as charts from "./charts.js";
import * as models from "./models.js";

const PATH = "/v1/samples";
const SORTS = {
  Version: (one) => -Number(one.model.split("/").at(-1)),
  Architecture: (one) => one.architecture,
  "Bits/dim": (one) => one.test_bits_per_dim ?? Infinity,
  Parameters: (one) => one.parameters ?? Infinity,
  "Images/s": (one) => -(one.images_per_second ?? -Infinity),
};

export function make(section) {
  const notes = new Notes(), boards = el("div", {}), history = el("div", {});
  const n = number(9, 1, 36), seed = number(0, 0, 2 ** 31 - 1);
  const draw = button("Draw samples of all", () => drawAll(shownVersions()), { className: "first" }), stop = button("Stop"), fresh = button("Look again", look);
  const task = new Task(notes, draw, stop);
  let cells = new Map(), sort = "Bits/dim";

  const shownVersions = () => [...cells.keys()];

  function drawAll(which) {
    return task.run(async (signal) => {
      if (!n.checkValidity() || !seed.checkValidity()) throw new Error("Images: 1 to 36; seed: a whole number from 0. Change what is outside.");
      let done = 0;
      for (const model of which) {
        notes.say(`Drawing ${model} (${done + 1} of ${which.length}) …`, done / which.length);
        const drawing = new Drawing(model, 48);
        cells.get(model).replaceChildren(drawing.node);
        try {
          const info = await models.info(model, signal);
          await drawing.run(PATH, { model, n: Number(n.value), seed: Number(seed.value) }, info, signal, (share) => (notes.progress.value = (done + share) / which.length));
        } catch (error) {
          if (error.name === "AbortError") throw error;
          cells.get(model).replaceChildren(el("p", { className: "error" }, error.message));
        }
        done++;
      }
      notes.say(`Samples of ${done} ${done === 1 ? "version" : "versions"} on seed ${seed.value}.`);
    });
  }

  async function look() {
    await task.run(async (signal) => {
      notes.say("Asking the registry …");
      await models.load();
      signal.throwIfAborted(); // what is drawn meanwhile stays where it is
      show();
      notes.say(`${models.served.versions.versions.length} versions.`);
    });
  }

  function show() {
    const { versions, decisions, mlflow, error } = models.served.versions;
    cells = new Map();
    boards.replaceChildren();
    history.replaceChildren();
    if (error) notes.fail(new Error(error));
    if (!versions.length && !error) boards.append(el("p", {}, "No registered versions are served: this service serves a folder. Serve a registered model (python pipelines/serve.py --model NAME) to compare its versions."));
    const groups = Map.groupBy ? Map.groupBy(versions, groupOf) : versions.reduce((all, one) => all.set(groupOf(one), [...(all.get(groupOf(one)) ?? []), one]), new Map());
    const rank = ([, group]) => (group.some((one) => one.aliases.includes("champion")) ? 0 : 1); // whom a challenger is judged against comes first
    for (const [title, group] of [...groups].sort((a, b) => rank(a) - rank(b))) boards.append(board(title, group, mlflow));
    if (decisions.length) history.append(el("h2", {}, "Promotions"), decisionList(decisions));
    else if (versions.length) history.append(el("h2", {}, "Promotions"), el("p", {}, "Nothing was promoted yet. python pipelines/promote.py judges versions by tests, and makes one champion."));
  }

  function board(title, group, mlflow) {
    const bits = group.filter((one) => one.test_bits_per_dim !== null), spread = bits.flatMap((one) => [one.test_bits_per_dim - 2 * (one.test_bits_per_dim_stderr ?? 0), one.test_bits_per_dim + 2 * (one.test_bits_per_dim_stderr ?? 0)]);
    const [low, high] = [Math.min(...spread), Math.max(...spread)];
    const body = el("tbody", {});
    const fill = () => {
      const key = SORTS[sort], order = [...group].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
      body.replaceChildren(...order.map((one) => rows.get(one.model)));
      for (const [name, head] of heads) head.setAttribute("aria-sort", name === sort ? "ascending" : "none");
    };
    const heads = new Map(Object.keys(SORTS).map((name) => [name, el("th", { scope: "col" }, button(name, () => ((sort = name), fill())))]));
    const rows = new Map(group.map((one) => [one.model, row(one, low, high, mlflow)]));
    fill();
    return el(
      "section",
      { "aria-label": title },
      el("h2", {}, title),
      el("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": `table of ${title}` }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.values(), el("th", { scope: "col" }, "± two standard errors"), el("th", { scope: "col" }, "Samples"))), body)),
    );
  }

  function row(one, low, high, mlflow) {
    const cell = el("td", { className: "samples" }, button("Draw", () => drawAll([one.model]), { "aria-label": `draw samples of ${one.model}` }));
    cells.set(one.model, cell);
    const marks = one.aliases.map((alias) => el("span", { className: `tag ${alias}` }, alias === "champion" ? "★ champion" : alias));
    if (one.put_aside) marks.push(el("span", { className: "tag" }, "put aside"));
    const [name, number] = one.model.split("/");
    const links = mlflow ? [outside(`${mlflow}/#/models/${encodeURIComponent(name)}/versions/${number}`, "MLflow", `${one.model} in MLflow`)] : [];
    const run = one.run_id ? runLink(one.run_id, one.model) : null;
    if (run) links.push(" · ", run);
    const { test_bits_per_dim: bits, test_bits_per_dim_stderr: error } = one;
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, one.model, " ", ...marks, el("br"), ...links),
      el("td", {}, one.architecture, el("br"), el("small", {}, [one.likelihood, one.recipe !== one.architecture ? one.recipe : null].filter(Boolean).join(" · "))),
      el("td", { className: "number" }, bits === null ? "–" : `${bits.toFixed(4)}${error ? ` ± ${error.toFixed(4)}` : ""}`),
      el("td", { className: "number" }, one.parameters === null ? "–" : one.parameters.toLocaleString("en")),
      el("td", { className: "number" }, one.images_per_second === null ? "–" : one.images_per_second.toPrecision(3)),
      el("td", {}, bits === null ? "" : charts.errorBar(bits, error, low, high, `${bits.toFixed(4)} bits/dim, between ${low.toFixed(3)} and ${high.toFixed(3)} of the table`)),
      cell,
    );
  }

  section.append(
    el("h1", { id: "compare-title" }, "Compare versions"),
    el("div", { className: "card" }, el("div", { className: "fields" }, field("Images of each", n), field("Seed", seed)), el("p", { className: "actions" }, draw, stop, fresh), notes.node),
    boards,
    history,
    el("p", { className: "status" }, "Links to MLflow lead to its server; where the registry is a file of this machine, to the one that make ui starts."),
  );
  show();
}

const outside = (href, text, label) => el("a", { href, target: "_blank", rel: "noopener noreferrer", "aria-label": label }, text);

function runLink(id, of) {
  const { mlflow, experiment } = models.served.versions;
  return mlflow && experiment ? outside(`${mlflow}/#/experiments/${experiment}/runs/${id}`, "its run", `run of ${of} in MLflow`) : null;
}

const groupOf = (one) => `${one.dataset || "unknown data"}${one.condition_on ? `, given ${one.condition_on}` : ""}`;

function decisionList(decisions) {
  const items = decisions.map((one) => {
    const when = new Date(1000 * one.decided_at).toISOString().slice(0, 16).replace("T", " ");
    const numbers = one.difference === null ? "" : ` Difference to the champion ${one.difference.toFixed(4)} bits/dim (${one.low.toFixed(4)} to ${one.high.toFixed(4)}; below zero is better).`;
    const link = runLink(one.run_id, `${one.model} ${one.outcome}`);
    return el("li", {}, el("strong", {}, `${one.model} ${one.outcome}`), `${one.champion_then ? `, against version ${one.champion_then}` : ""} (${when} UTC): ${one.reason}.${numbers}`, ...(link ? [" ", link] : []));
  });
  return el("ol", { className: "history", reversed: true }, ...items);
}
