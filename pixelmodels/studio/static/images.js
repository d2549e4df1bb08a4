// Images that a person gives: files of any size and format, or images of the data set; shown as a version sees them.

import { get, post } from "./api.js";
import { button, choice, el } from "./dom.js";

const MOST_BYTES = 8e6, MOST_SIDE = 2048; // of a file that is sent as it is; larger ones are made smaller in the browser first
const PAGE = 24;
const zones = new WeakMap(); // what takes the files of each place to drop them

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  for (const zone of files.length ? document.querySelectorAll(".drop") : []) if (zone.offsetParent) zones.get(zone)(files);
});

/** Files as a version sees them: PNG files in base64, in their order. */
export async function fit(files, model, kind = "image", signal = undefined) {
  const sent = await Promise.all([...files].map(encoded));
  return (await post("/v1/fits", { model, files: sent, kind }, signal)).images;
}

async function encoded(file) {
  const blob = file.size > MOST_BYTES ? await smaller(file) : file;
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 1 << 15) text += String.fromCharCode(...bytes.subarray(at, at + (1 << 15)));
  return btoa(text);
}

async function smaller(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`'${file.name}' is larger than ${MOST_BYTES / 1e6} MB, and this browser cannot make it smaller. Give a smaller file.`);
  });
  const share = Math.min(1, MOST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(share * bitmap.width)), Math.max(1, Math.round(share * bitmap.height)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A place to drop, paste or choose files; `take` gets a list of them. */
export function dropZone(text, take, multiple = false) {
  const input = el("input", { type: "file", accept: "image/*", multiple, "aria-label": text });
  const zone = el("div", { className: "drop" }, el("p", {}, `${text}: drop ${multiple ? "them" : "it"} here, paste, or choose:`), input);
  const over = (is) => zone.classList.toggle("over", is);
  const given = (files) => files.length && take(multiple ? [...files] : [files[0]]);
  input.addEventListener("change", () => {
    given(input.files);
    input.value = "";
  });
  zone.addEventListener("dragover", (event) => (event.preventDefault(), over(true)));
  zone.addEventListener("dragleave", () => over(false));
  zone.addEventListener("drop", (event) => (event.preventDefault(), over(false), given(event.dataTransfer.files)));
  zones.set(zone, given);
  return zone;
}

/** A file of an image in base64, such as the service answers with. */
export const fileOf = (png) => new Blob([Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0))], { type: "image/png" });

/** Images of the data set of a version to choose from, where the service shows them; `take` gets one: {image, label, label_name, key}.

  Args: `picker`, of the versions, whose data sets are shown as they are picked; null: there is one version only. */
export function dataBrowser(modelOf, take, picker = null) {
  const split = choice([["test", "test"], ["validation", "validation"], ["train", "train"]]);
  split.setAttribute("aria-label", "split");
  const said = el("p", { className: "status", role: "status" }), list = el("div", { className: "thumbs" });
  let first = 0, total = 0, asked = 0; // how often: only the last answer is shown
  const back = button("Earlier", () => turn(-PAGE)), on = button("Later", () => turn(PAGE));
  const inside = el("div", { hidden: true }, el("p", { className: "actions" }, split, back, on), said, list);
  const open = button("From the data set …", () => {
    inside.hidden = !inside.hidden;
    open.setAttribute("aria-expanded", String(!inside.hidden));
    if (!inside.hidden) show();
  }, { "aria-expanded": "false" });
  split.addEventListener("change", () => ((first = 0), show()));

  async function turn(by) {
    first = Math.max(0, Math.min(first + by, Math.max(0, total - 1)));
    await show();
  }

  picker?.addEventListener("change", () => {
    first = 0;
    if (!inside.hidden) show();
  });

  async function show() {
    const mine = ++asked;
    said.textContent = "Reading …";
    list.replaceChildren();
    try {
      const path = modelOf().split("/").map(encodeURIComponent).join("/");
      const found = await get(`/v1/data/${path}?split=${split.value}&first=${first}&n=${PAGE}`);
      if (mine !== asked) return;
      total = found.total;
      said.textContent = !found.images.length ? `There are no images in ${found.dataset}, ${split.value}.` : `Images ${first + 1} to ${first + found.images.length} of ${total} of ${found.dataset}, ${split.value}.`;
      list.replaceChildren(...found.images.map((one) => thumb(one, () => take(one))));
    } catch (error) {
      if (mine !== asked) return;
      said.textContent = error.message;
    }
    back.disabled = first === 0;
    on.disabled = first + PAGE >= total;
  }
  return el("div", { className: "data" }, open, inside);
}

export const source = (png) => `data:image/png;base64,${png}`;

function thumb(one, take) {
  const name = [one.label_name ?? (one.label === null ? null : `class ${one.label}`), one.key].filter(Boolean).join(", ");
  return el("button", { type: "button", className: "thumb", onclick: take, title: name }, el("img", { src: source(one.image), alt: name || `image ${one.index}` }));
}
