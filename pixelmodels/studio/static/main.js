// Which page is shown, and the key where the service has keys.

import { canBeKey, key, onUnauthorized } from "./api.js";
import * as models from "./models.js";

const PAGES = { watch: "Watch it draw", complete: "Complete", given: "Colour, enlarge, interpolate", score: "Score and explain", compare: "Compare", features: "Features", dreams: "Dreams" };
const $ = (id) => document.getElementById(id);
const made = new Map();

async function show() {
  const name = Object.hasOwn(PAGES, location.hash.slice(1)) ? location.hash.slice(1) : "watch";
  $("starting").hidden = true;
  document.title = `${PAGES[name]} · pixelmodels studio`;
  for (const page of Object.keys(PAGES)) {
    $(page).hidden = page !== name;
    const link = document.querySelector(`nav a[href="#${page}"]`);
    if (page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!made.has(name)) made.set(name, import(`./${name}.js`).then((module) => module.make($(name))));
  try {
    await made.get(name);
  } catch {
    made.delete(name);
    trouble("This page of the studio cannot be read from the service. See whether it still runs, then try again.");
    return;
  }
  $(name).dataset.ready = "true";
}

async function begin() {
  const wasAsked = !$("key-form").hidden;
  $("key-form").hidden = true;
  $("starting").hidden = false;
  try {
    await models.load();
  } catch (error) {
    $("starting").hidden = true;
    $("key-change").hidden = !key.get();
    if (error.status !== 401) trouble(error.message);
    return;
  }
  $("starting").hidden = true;
  $("key-change").hidden = !key.get();
  await show();
  if (wasAsked) $("main").focus();
}

/** Say why nothing can be shown. */
function trouble(text) {
  const again = document.createElement("button");
  Object.assign(again, { type: "button", textContent: "Try again", onclick: () => location.reload() });
  $("starting").replaceChildren(`${text} `, again);
  $("starting").hidden = false;
}

function askKey(error) {
  if (!$("key-form").hidden) return; // it is being typed
  for (const page of Object.keys(PAGES)) $(page).hidden = true;
  $("starting").hidden = true;
  $("key-error").textContent = key.get() ? `${error.message} The key that was given is not one of them.` : "";
  $("key-error").hidden = !key.get();
  key.set("");
  $("key-change").hidden = true;
  $("key-form").hidden = false;
  $("key").value = "";
  $("key").focus();
}

onUnauthorized(askKey);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  $("key-error").hidden = canBeKey(given);
  if (!canBeKey(given)) {
    $("key-error").textContent = "No key looks like that: keys are letters, digits and signs, without accents or spaces. Copy it again.";
    return;
  }
  key.set(given);
  begin();
});
$("key-change").addEventListener("click", () => {
  key.set("");
  location.reload();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what follows the # is the page
  $("main").focus();
});
window.addEventListener("hashchange", () => {
  if ($("key-form").hidden && models.served.models) show().then(() => $("main").focus({ preventScroll: true }));
});
begin();
