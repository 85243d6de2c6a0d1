// Builds nodes. Every value becomes text: nothing is parsed as markup.

// Control characters, and those that reorder or hide text: shown as escapes.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const LONGEST = 20_000; // characters of one text node; records are bounded far below

/** Returns a value as text that looks like what it is. */
export function plain(value) {
  const text = typeof value === "string" ? value : String(value ?? "");
  const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
  return shown.replace(UNSEEN, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * Returns an element: `el("td.num.soft", {title: "…", click: act}, "text", node)`.
 * A function is a listener; null, undefined and false are no attribute, and no child.
 */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : plain(value));
  }
  add(node, children);
  return node;
}

/** Appends children: nodes, texts, arrays of both. */
export function add(node, ...children) {
  for (const child of children.flat(3)) {
    if (child === undefined || child === null || child === false || child === "") continue;
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}

/** Replaces all children. */
export function fill(node, ...children) {
  node.replaceChildren();
  return add(node, ...children);
}

/** Returns a function that redraws a part when what it shows has changed, and else leaves focus and selection alone. */
export function part(host, draw) {
  let shown;
  return (data, force = false) => {
    const now = JSON.stringify(data) ?? "";
    if (!force && (now === shown || isChoosing(host))) return;
    shown = now;
    keepFocus(host, () => fill(host, draw(data)));
  };
}

// An open list of choices would close under the hand.
function isChoosing(host) {
  return CSS.supports("selector(select:open)") && host.querySelector("select:open") !== null;
}

/** Calls `redraw`, after which the focus is at the same place within `host`. */
export function keepFocus(host, redraw) {
  const all = () => [...host.querySelectorAll("a,button,select,summary,[tabindex]")];
  const at = all().indexOf(document.activeElement);
  redraw();
  if (at >= 0) (all()[at] ?? all().at(-1))?.focus({ preventScroll: true });
}

/** Returns a button. */
export function button(text, act, attributes = {}) {
  return el("button", { type: "button", click: act, ...attributes }, text);
}

/** Returns a table that scrolls by itself where it is wider than its place; a heading is a text, or `[text, class]`. */
export function table(heads, rows, label) {
  const named = heads.map((head) => (Array.isArray(head) ? head : [head]));
  const cells = named.map(([text, ...classes]) => el(["th", ...classes].join("."), { scope: "col" }, text));
  const body = el("table", {}, el("thead", {}, el("tr", {}, cells)), el("tbody", {}, rows));
  return el("div.wide", { tabindex: "0", role: "group", "aria-label": label }, body);
}
