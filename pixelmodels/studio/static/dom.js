// Elements made in one line, and messages that are read aloud.

/** An element: `props` are properties, `on…` listeners, `data-…`, `aria-…` and `role` attributes; children are nodes or text. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (/^(aria-|data-|role$|for$|list$|tabindex$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

let count = 0;

/** A label above a control; `hint` says more. */
export function field(text, control, hint = "") {
  control.id ||= `field-${++count}`;
  const parts = [el("label", { for: control.id }, text), control];
  if (hint) {
    const said = el("small", { id: `${control.id}-hint` }, hint);
    control.setAttribute("aria-describedby", said.id);
    parts.push(said);
  }
  return el("div", { className: "field" }, ...parts);
}

/** A control for a number; one without a value may be left empty. */
export const number = (value, min, max, step = 1) => el("input", { type: "number", value, min, max, step, required: value !== "", inputMode: step === 1 ? "numeric" : "decimal" });
export const button = (text, onclick, props = {}) => el("button", { type: "button", onclick, ...props }, text);

export function choice(options, value) {
  const select = el("select", {}, ...options.map(([key, text]) => el("option", { value: key }, text)));
  if (value !== undefined) select.value = value;
  return select;
}

/** See that what was typed can be used, before anything is made of it; raises what is wrong in words. */
export function check(...controls) {
  for (const one of controls)
    if (!one.disabled && !one.checkValidity()) {
      one.focus();
      throw new Error(`${one.labels[0].textContent}: ${one.value || "nothing"} cannot be used. ${one.validationMessage}`);
    }
}

/** The greatest of many numbers, 0 in place of null (a call with each as an argument has room for some ten thousand only). */
export const greatest = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity);

/** A line for what went wrong, and one for what goes on; both are read aloud. */
export class Notes {
  constructor() {
    this.error = el("p", { className: "error", role: "alert", hidden: true });
    this.status = el("p", { className: "status", role: "status" });
    this.progress = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "progress" });
    this.node = el("div", { className: "notes" }, this.status, this.progress, this.error);
  }

  say(text, share = null) {
    this.error.hidden = true;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.progress.hidden = share === null;
    if (share !== null) this.progress.value = share;
  }

  /** What takes nobody knows how long. */
  wait(text) {
    this.say(text, 0);
    this.progress.removeAttribute("value");
  }

  fail(error) {
    this.progress.hidden = true;
    if (error.name === "AbortError") {
      this.status.textContent = "Stopped.";
      return;
    }
    this.status.textContent = "";
    this.error.textContent = error.message;
    this.error.hidden = false;
  }
}

/** What a button starts and another one stops: one thing at a time. */
export class Task {
  constructor(notes, start, stop) {
    Object.assign(this, { notes, start, stop, controller: null });
    stop.disabled = true;
    stop.addEventListener("click", () => this.controller?.abort());
  }

  async run(work) {
    this.controller?.abort();
    const mine = (this.controller = new AbortController());
    this.stop.disabled = false;
    try {
      await work(mine.signal);
    } catch (error) {
      if (this.controller === mine) this.notes.fail(error);
      mine.abort(); // what was asked for beside it is not wanted any more
    } finally {
      if (this.controller === mine) {
        this.stop.disabled = true;
        this.controller = null;
      }
    }
  }
}

export async function copy(text, notes, what) {
  try {
    await navigator.clipboard.writeText(text);
    notes.say(`${what} is on the clipboard.`);
  } catch {
    const area = el("textarea", { value: text, readOnly: true, rows: 6, "aria-label": what });
    notes.status.replaceChildren(`The clipboard cannot be used here; copy the ${what} by hand:`, area);
    area.select();
  }
}
