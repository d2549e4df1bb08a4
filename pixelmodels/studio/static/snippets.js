// The same request as a line for the shell, and as Python.

import { key } from "./api.js";

const given = (body) => Object.fromEntries(Object.entries(body).filter(([name, value]) => value !== undefined && !["stream", "every"].includes(name)));
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(path, body) {
  const address = new URL(`.${path}`, document.baseURI).href;
  const auth = key.get() ? ` -H "Authorization: Bearer $PIXELMODELS_KEY"` : "";
  return `curl -s ${address}${auth} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify({ ...given(body), format: "grid" }))} -o images.png`;
}

export function python(path, body) {
  const address = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const { n, image, mask, ...options } = given(body);
  const words = Object.entries(options).map(([name, value]) => `${name}=${literal(value)}`);
  const lines = ["from pixelmodels.serving.client import Client", ""];
  if (key.get()) lines.unshift("import os");
  lines.push(`client = Client("${address}"${key.get() ? ', key=os.environ["PIXELMODELS_KEY"]' : ""})`);
  if (path === "/v1/completions") {
    lines.unshift("import base64");
    lines.push(`image = base64.b64decode("${image}")`, `mask = base64.b64decode("${mask}")`);
    lines.push(`found = client.completions(image, mask=mask, n=${n}, ${words.join(", ")})`);
  } else lines.push(`found = client.samples(${[n, ...words].join(", ")})`);
  lines.push("print(found.model, found.seed, found.images_NCHW.shape)");
  return lines.join("\n") + "\n";
}

const NAMES = { true: "True", false: "False", null: "None" };

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `"${name}": ${literal(one)}`).join(", ")}}`;
  return NAMES[value] ?? JSON.stringify(value);
}
