// The HTTP API: the key goes in a header, and events are read from the answer of a POST (EventSource can send neither).

const KEY = "pixelmodels.key";
const REMEDY = {
  408: "Send it again, or a smaller image.",
  413: "Give a smaller image, or fewer at a time.",
  429: "Others are being answered; try again shortly, or ask for fewer images.",
  500: "Try again; whoever runs the service finds the reason in its log.",
  503: "Try again in a few seconds.",
  504: "Ask for fewer images at a time.",
};
const listeners = new Set();

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Whether it can be sent in a header: what the service makes are letters, digits and signs of ASCII. */
export const canBeKey = (value) => /^[\x21-\x7e]+$/.test(value);

/** Called when the service wants a key, or another one. */
export const onUnauthorized = (listen) => listeners.add(listen);

export class ApiError extends Error {
  constructor(status, body, retryAfter = null) {
    const where = body.field ? ` (field '${body.field}')` : "";
    const when = retryAfter ? ` It says: in ${retryAfter} s.` : "";
    super(`${sentence(body.message ?? "The service said no")}${where}. ${REMEDY[status] ?? ""}${when}`.trim());
    Object.assign(this, { status, code: body.code, field: body.field });
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.$/, "");

async function ask(method, path, body, signal) {
  const used = key.get();
  const headers = { ...(body ? { "Content-Type": "application/json" } : {}), ...(used ? { Authorization: `Bearer ${used}` } : {}) };
  let answer;
  try {
    answer = await fetch(`.${path}`, { method, headers, signal, body: body ? JSON.stringify(body) : undefined, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. See whether it still runs (make serve), then try again.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({ message: `The service answered with status ${answer.status}` }));
  const error = new ApiError(answer.status, said, answer.headers.get("Retry-After"));
  if (answer.status === 401 && used === key.get()) listeners.forEach((listen) => listen(error)); // else another key was given meanwhile
  throw error;
}

export const get = async (path, signal) => (await ask("GET", path, null, signal)).json();
export const post = async (path, body, signal) => (await ask("POST", path, body, signal)).json();

/** The events of a stream as they come: `[kind, data]`; raises what the stream says went wrong. */
export async function* events(path, body, signal) {
  const reader = (await ask("POST", path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = "", isOver = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        isOver = true;
        break;
      }
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const [first, second] = part.split("\n");
        last = first.slice("event: ".length);
        const data = JSON.parse(second.slice("data: ".length));
        if (last === "error") throw new ApiError(data.status, data);
        yield [last, data];
      }
    }
  } catch (error) {
    if (error instanceof TypeError && !signal?.aborted) throw new Error("The connection broke. Try again with the same seed: the images will be the same.");
    throw error;
  } finally {
    if (!isOver) reader.cancel().catch(() => {}); // whoever listened has stopped: the service frees its slots
  }
  if (last !== "done") throw new Error("The stream ended before all was drawn. Try again with the same seed: the images will be the same.");
}
