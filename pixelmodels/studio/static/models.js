// What is served: versions with their figures, and what each takes.

import { get } from "./api.js";
import { choice, el } from "./dom.js";

const infos = new Map(); // by address
export const served = { models: null, versions: null, choices: [] };

/** Ask the service what it serves. */
export async function load() {
  const without = (error) => {
    if (error.status === 401) throw error;
    return { versions: [], decisions: [], mlflow: null, experiment: null, error: error.message };
  };
  const [models, versions] = await Promise.all([get("/v1/models"), get("/v1/versions").catch(without)]);
  for (const info of models.loaded) infos.set(info.model, info);
  Object.assign(served, { models, versions });
  if (!models.loaded.length) throw new Error("No sampler has told what it holds. Try again in a few seconds.");
  const held = models.loaded.find((info) => info.names.includes(models.default)) ?? models.loaded[0];
  const others = versions.versions.length ? versions.versions.map((version) => version.model) : models.loaded.map((info) => info.model);
  served.choices = [...new Set([held.model, ...others])];
  served.first = held.model;
}

/** The figures of a version, where the registry has them. */
export const version = (model) => served.versions.versions.find((one) => one.model === model);

/** What a version takes; it is loaded by the service where it is not held yet. */
export async function info(model, signal) {
  if (!infos.has(model)) infos.set(model, await get(`/v1/models/${model.split("/").map(encodeURIComponent).join("/")}`, signal));
  return infos.get(model);
}

/** What the version takes that is picked; nothing where another one was picked meanwhile, or where it cannot be told: `fail` hears why. */
export async function picked(picker, fail) {
  const model = picker.value;
  try {
    const found = await info(model);
    return picker.value === model ? found : null;
  } catch (error) {
    if (picker.value === model) fail(error);
    return null;
  }
}

export const bits = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

export function describe(model) {
  const known = version(model), held = infos.get(model);
  const aliases = (known?.aliases ?? []).map((alias) => (alias === "champion" ? "★ champion" : alias));
  const parts = [model, ...aliases, known?.architecture ?? held?.architecture];
  if (known?.test_bits_per_dim != null) parts.push(`${bits(known.test_bits_per_dim)} bits/dim`);
  if (known?.condition_on) parts.push(`given ${known.condition_on}`);
  if (known?.put_aside) parts.push("put aside");
  return parts.filter(Boolean).join(" · ");
}

/** A list of the versions to choose from; `none` is a first line that stands for no version. */
export function picker(none = null) {
  const options = served.choices.map((model) => [model, describe(model)]);
  return choice(none === null ? options : [["", none], ...options], none === null ? served.first : "");
}

/** A control for a class of a version: a list of names or numbers; empty: any. */
export function classes(info, none = "any") {
  const count = Math.min(info.num_classes, 2000);
  const names = info.class_names.length ? info.class_names : Array.from({ length: count }, (_, label) => `class ${label}`);
  return el("select", {}, el("option", { value: "" }, none), ...names.slice(0, count).map((name, label) => el("option", { value: label }, name || `class ${label}`)));
}
