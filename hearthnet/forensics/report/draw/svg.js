// Elements of a drawing. Every text is set as text and every position as an attribute: nothing is parsed as markup.

const SVG = "http://www.w3.org/2000/svg";
const OUTLINES = { log: "M0 -4A4 4 0 1 1 0 4A4 4 0 1 1 0 -4Z", warn: "M0 -5L5.5 4H-5.5Z", bad: "M0 -5L5 0L0 5L-5 0Z" };

/** Appends an SVG element, with its attributes and text. */
export function shape(parent, tag, attributes = {}, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, typeof value === "number" ? String(Math.round(value * 100) / 100) : value);
  }
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

/** Appends a shape that has a tooltip. */
export function titled(parent, tag, attributes, title) {
  const made = shape(parent, tag, attributes);
  shape(made, "title", {}, title);
  return made;
}

/** Appends an HTML element. */
export function part(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

/** Appends an empty drawing that says in words what it shows. */
export function drawing(parent, width, height, label) {
  return shape(parent, "svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

/** Appends the sign of a log record, in a shape of its own for each kind. */
export function sign(parent, kind, x, y, title) {
  const place = `translate(${Math.round(x * 100) / 100} ${y})`;
  return titled(parent, "path", { d: OUTLINES[kind], transform: place, class: `sign ${kind}` }, title);
}

/** Appends a line `mark` at each tick, and the labels for which there is space, 15 px below it. */
export function axis(parent, ticks, x, mark, width) {
  let free = 0;
  for (const { us, label } of ticks) {
    const place = x(us);
    const half = label.length * 3.2;
    shape(parent, "line", { ...mark, x1: place, x2: place });
    if (place - half < free || place + half > width) continue;
    shape(parent, "text", { x: place, y: mark.y2 + 13, "text-anchor": "middle" }, label);
    free = place + half + 6;
  }
}

/** Appends a line of signs and words that explain colours: pairs of kind and word. */
export function legend(parent, pairs) {
  const line = part(parent, "p", "draw-legend");
  for (const [kind, word] of pairs) {
    const item = part(line, "span");
    const sign = shape(item, "svg", { width: 12, height: 10, "aria-hidden": "true" });
    shape(sign, "rect", { x: 1, y: 1, width: 10, height: 8, class: kind });
    item.append(word);
  }
  return line;
}

/** Replaces what `host` has by a drawing that is as wide as the host, and is drawn again when that changes. */
export function fitted(host, className, draw, width = 0) {
  const outer = document.createElement("div");
  outer.className = `draw ${className}`;
  host.replaceChildren(outer);
  let drawn = 0;
  const fit = (wanted) => {
    if (wanted <= 0 || wanted === drawn) return;
    drawn = wanted;
    outer.replaceChildren();
    draw(outer, wanted);
  };
  // In a frame of its own: a drawing that changes a size within the observer's turn is an error to the browser.
  new ResizeObserver(() => requestAnimationFrame(() => fit(Math.floor(outer.clientWidth)))).observe(outer);
  fit(Math.floor(outer.clientWidth) || width);
  return outer;
}
