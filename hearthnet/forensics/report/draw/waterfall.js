// A trace as a waterfall: a row a span, below its parent, and its log records as signs at their moments.
//
// The rows are a tree for keyboards and screen readers. Thousands of them scroll, and only those in view exist.

import { counted, duration, finite, glyph, kindOfLevel, kindOfStatus, LEAST_CALLS, number } from "./format.js";
import { printable, valueTicks } from "./format.js";
import { fitted, legend, part, shape, sign } from "./svg.js";

const NARROW_PX = 560; // below it the bar is under the name
const ROW_PX = 24;
const TALL_ROW_PX = 42;
const SPARE_ROWS = 8; // drawn above and below those in view
const BAR_PX = 12;
const LEAST_BAR_PX = 2;
const SIGN_PX = 8; // records nearer than this share a sign
const MARK_PX = 22; // the label of what is usual, as wide as it is drawn
const FAR_MARK_PX = 36; // with an arrow
const MARK_GAP_PX = 4;
const LEVELS = ["log", "warn", "bad"]; // of log records, the worst last

/**
 * Draws a trace into `host` and returns the element, which has a method `highlight(id)`: of a span by its id, a string;
 * of a log record by its seq, a number; of nothing by null.
 *
 * `onSpan(span, isChosen)` and `onLog(log, isChosen)` are called with what is pointed at or has the focus, null once
 * nothing has, and with `isChosen` where it was clicked, or Enter pressed. A span without parent among the spans, or in
 * a circle, is below a row that says so. `run.is_alive` tells whether an open span may still end.
 */
export function waterfall(host, { trace, logs = [], usual = null, run = null, width = 0 }, { onSpan, onLog } = {}) {
  const view = new Waterfall(trace, logs, usual, run, { onSpan, onLog });
  const outer = fitted(host, "draw-waterfall", (element, size) => view.draw(element, size), width);
  outer.highlight = (id) => view.highlight(id);
  return outer;
}

/** The rows of a trace: itself, its spans each after its parent, and a row for each parent that is not recorded. */
export function waterfallRows(trace) {
  const spans = (trace.spans ?? []).filter((span) => span && typeof span === "object");
  const ids = new Set(spans.map((span) => span.id));
  const tree = { rows: [{ kind: "trace", level: 1, up: -1 }], added: new Set(), byParent: spansByParent(spans) };
  addBelow(tree, tree.byParent.get(null) ?? [], 0);
  for (const [parent, children] of tree.byParent) {
    if (parent !== null && !ids.has(parent)) addLost(tree, children);
  }
  for (const span of spans) if (!tree.added.has(span)) addLost(tree, [span]); // it is its own ancestor
  const siblings = new Map();
  for (const row of tree.rows) {
    if (!siblings.has(row.up)) siblings.set(row.up, []);
    siblings.get(row.up).push(row);
  }
  for (const rows of siblings.values()) {
    rows.forEach((row, index) => Object.assign(row, { at: index + 1, of: rows.length }));
  }
  return tree.rows;
}

/** The spans below each parent, in the order of their start; below null the outermost. */
function spansByParent(spans) {
  const found = new Map();
  for (const span of [...spans].sort((a, b) => finite(a.offset_ms) - finite(b.offset_ms))) {
    const parent = span.parent ?? null;
    if (!found.has(parent)) found.set(parent, []);
    found.get(parent).push(span);
  }
  return found;
}

/** Adds the rows of spans and of all below them. Without recursion: a chain may have thousands. */
function addBelow({ rows, added, byParent }, first, up) {
  const waiting = first.map((span) => ({ span, up, level: rows[up].level + 1 })).reverse();
  while (waiting.length) {
    const row = waiting.pop();
    if (added.has(row.span)) continue;
    added.add(row.span);
    const index = rows.push({ kind: "span", ...row }) - 1;
    const below = row.span.id == null ? [] : (byParent.get(row.span.id) ?? []);
    for (const span of below.toReversed()) waiting.push({ span, up: index, level: row.level + 1 });
  }
}

function addLost(tree, children) {
  addBelow(tree, children, tree.rows.push({ kind: "missing", level: 2, up: 0 }) - 1);
}

class Waterfall {
  constructor(trace, logs, usual, run, handlers) {
    Object.assign(this, { trace, logs, usual, handlers, rows: waterfallRows(trace), active: 0, first: 0, lit: null });
    this.isDead = trace.result === "interrupted" || run?.is_alive === false;
    const ends = this.rows.map((row) => (row.span ? finite(row.span.offset_ms) + finite(row.span.duration_ms) : 0));
    this.whole = ends.reduce((most, end) => Math.max(most, end), Math.max(finite(trace.duration_ms), 0.001));
    // What is usual is in the scale unless the trace would shrink to less than half of it.
    this.marks = marksOf(usual);
    const last = Math.max(0, ...this.marks.map((mark) => mark.ms));
    this.scale = last <= 2 * this.whole ? Math.max(last, this.whole) : this.whole;
  }

  draw(outer, width) {
    this.outer = outer;
    this.isNarrow = width < NARROW_PX;
    this.rowPx = this.isNarrow ? TALL_ROW_PX : ROW_PX;
    this.drawn = new Map();
    outer.classList.toggle("narrow", this.isNarrow);
    const head = part(outer, "div", "draw-line draw-head");
    this.scroller = part(outer, "div", "draw-scroller");
    this.list = part(this.scroller, "div", "draw-rows");
    this.list.style.height = `${this.rows.length * this.rowPx}px`;
    this.list.setAttribute("role", "tree");
    this.list.setAttribute("aria-label", `Spans of ${printable(this.trace.capability, 80)}, ${this.countText()}`);
    this.measure();
    this.drawHead(head);
    this.drawLogs(outer);
    this.drawLegend(outer);
    this.scroller.scrollTop = this.first * this.rowPx;
    this.drawRows();
    this.scroller.addEventListener("scroll", () => this.drawRows(), { passive: true });
    this.listen();
  }

  measure() {
    const space = this.scroller.clientWidth;
    const namePx = this.isNarrow ? 0 : Math.round(Math.min(0.34 * space, 320));
    const tookPx = this.isNarrow ? 0 : 156;
    this.track = Math.max(40, space - namePx - tookPx);
    this.outer.style.setProperty("--name", `${namePx}px`);
    this.outer.style.setProperty("--took", `${tookPx}px`);
  }

  x(ms) {
    return (Math.min(Math.max(ms, 0), this.scale) / this.scale) * this.track;
  }

  countText() {
    const kept = this.rows.filter((row) => row.span).length;
    const dropped = finite(this.trace.truncated_spans);
    return dropped > 0 ? `${number(kept)} of ${counted(kept + dropped, "span")}` : counted(kept, "span");
  }

  drawHead(head) {
    part(head, "span", "draw-name", this.countText());
    const size = { width: this.track, height: this.marks.length ? 30 : 16 };
    const axis = shape(head, "svg", { ...size, class: "draw-track", "aria-hidden": "true" });
    for (const ms of this.ticks()) {
      const place = this.x(ms);
      const anchor = place < 20 ? "start" : place > this.track - 24 ? "end" : "middle";
      shape(axis, "text", { x: place, y: 11, "text-anchor": anchor }, ms === 0 ? "0" : duration(ms));
    }
    // From the right: what is beyond the scale is at its end, and moves the label before it to the left.
    let end = this.track;
    for (const { name, ms } of this.marks.toReversed()) {
      const isInside = ms <= this.scale;
      const width = isInside ? MARK_PX : FAR_MARK_PX;
      const place = Math.min(Math.max(this.x(ms) - MARK_PX / 2, 0), end - width);
      const label = shape(axis, "text", { x: place, y: 26, class: "usual" }, isInside ? name : `${name} →`);
      shape(label, "title", {}, `usually, ${name}: ${duration(ms)}`);
      end = place - MARK_GAP_PX;
    }
  }

  ticks() {
    return valueTicks(this.scale, Math.max(2, Math.min(6, this.track / 90)));
  }

  drawRows() {
    const height = this.scroller.clientHeight;
    this.first = this.scroller.scrollTop / this.rowPx;
    const first = Math.max(0, Math.floor(this.first) - SPARE_ROWS);
    const end = Math.min(this.rows.length, first + Math.ceil(height / this.rowPx) + 2 * SPARE_ROWS);
    // The row that has the focus stays, so that the keyboard does not lose its place.
    const wanted = new Set([this.active]);
    for (let index = first; index < end; index++) wanted.add(index);
    for (const [index, row] of this.drawn) {
      if (wanted.has(index)) continue;
      row.remove();
      this.drawn.delete(index);
    }
    // In the order of the rows, which is that of reading.
    let next = null;
    for (const index of [...wanted].sort((a, b) => b - a)) {
      if (!this.drawn.has(index)) this.drawn.set(index, this.drawRow(index, next));
      next = this.drawn.get(index);
    }
  }

  drawRow(index, next) {
    const row = this.rows[index];
    const said = this.wordsOf(row);
    const line = part(this.list, "div", `draw-line draw-row ${said.kind}`);
    this.list.insertBefore(line, next);
    line.style.top = `${index * this.rowPx}px`;
    line.style.height = `${this.rowPx}px`;
    line.dataset.index = index;
    if (row.span) line.dataset.span = row.span.id;
    const values = { role: "treeitem", "aria-level": row.level, "aria-posinset": row.at, "aria-setsize": row.of };
    const label = { "aria-label": said.label, title: said.title, tabindex: index === this.active ? 0 : -1 };
    for (const [name, value] of Object.entries({ ...values, ...label })) line.setAttribute(name, value);
    const name = part(line, "span", "draw-name");
    name.style.paddingInlineStart = `${Math.min(row.level - 1, 12) * 12}px`;
    if (glyph(said.kind)) part(name, "b", "draw-glyph", glyph(said.kind));
    part(name, "bdi", "", said.name);
    this.drawBar(line, row, said.kind);
    part(line, "span", "draw-took", said.took);
    line.classList.toggle("lit", this.isLit(row));
    return line;
  }

  drawBar(line, row, kind) {
    const height = this.isNarrow ? BAR_PX + 4 : ROW_PX;
    const track = shape(line, "svg", { width: this.track, height, class: "draw-track", "aria-hidden": "true" });
    const mark = (ms, kindOfMark) =>
      shape(track, "line", { x1: this.x(ms), x2: this.x(ms), y1: 0, y2: height, class: kindOfMark });
    shape(track, "path", { d: this.ticks().map((ms) => `M${this.x(ms)} 0V${height}`).join(""), class: "grid" });
    if (row.kind === "missing") return;
    const start = row.span ? finite(row.span.offset_ms) : 0;
    const length = row.span ? finite(row.span.duration_ms) : finite(this.trace.duration_ms);
    const width = Math.max(LEAST_BAR_PX, this.x(start + length) - this.x(start));
    const left = Math.min(this.x(start), this.track - width);
    const box = { x: left, y: (height - BAR_PX) / 2, width, height: BAR_PX, rx: Math.min(3, width / 3) };
    shape(track, "rect", { ...box, class: `bar ${kind}` });
    for (const { name, ms } of row.span ? marksOf(this.usual?.spans?.[row.span.name]) : this.marks) {
      if (start + ms <= this.scale) mark(start + ms, `usual ${name}`);
    }
  }

  /** The name, duration, kind and description of a row. */
  wordsOf(row) {
    if (row.kind === "missing") {
      const name = "parent not recorded";
      const title = "the spans below name a parent that the trace does not have";
      return { name, kind: "missing", took: "", label: name, title };
    }
    const { span } = row;
    const status = span ? span.status : this.trace.result;
    const kind = kindOfStatus(status);
    const lasted = duration(finite(span ? span.duration_ms : this.trace.duration_ms));
    const end = this.isDead ? "end unknown" : "still open";
    const took = { open: `≥ ${lasted}, ${end}`, ok: lasted }[kind] ?? `${lasted} ${printable(status, 40)}`;
    const name = printable(span ? span.name : this.trace.capability, 200);
    const usual = marksOf(span ? this.usual?.spans?.[span.name] : this.usual);
    const parts = [name, span ? `begins at ${duration(finite(span.offset_ms))}` : "the whole trace"];
    parts.push(kind === "open" ? `at least ${lasted}, ${end}` : `${lasted}, ${printable(status, 40)}`);
    for (const mark of usual) parts.push(`usual ${mark.name} ${duration(mark.ms)}`);
    const label = parts.join(", ");
    const extras = Object.keys(span?.extras ?? {}).length ? `\n${printable(JSON.stringify(span.extras), 600)}` : "";
    return { name, kind, took, label, title: label + extras };
  }

  drawLogs(outer) {
    this.signs = [];
    if (!this.logs.length) return;
    const line = part(outer, "div", "draw-line draw-logs");
    const count = counted(this.logs.length, "log record");
    part(line, "span", "draw-name", count);
    const countOf = (kind) => this.logs.filter((log) => kindOfLevel(log.level) === kind).length;
    const words = `${count}: ${counted(countOf("warn"), "warning")}, ${counted(countOf("bad"), "error")}`;
    const size = { width: this.track, height: 16, class: "draw-track" };
    const track = shape(line, "svg", { ...size, role: "img", "aria-label": words });
    for (const place of this.placesOfLogs()) this.drawSign(track, place);
  }

  /** The records with their moments; those that would hide each other share a place. */
  placesOfLogs() {
    const at = (log) => (finite(log.ts_us) - finite(this.trace.started_us)) / 1e3;
    const places = [];
    for (const log of [...this.logs].sort((a, b) => at(a) - at(b))) {
      const x = this.x(at(log));
      const last = places.at(-1);
      if (last && x - last.x < SIGN_PX) last.logs.push(log);
      else places.push({ x, ms: at(log), logs: [log] });
    }
    return places;
  }

  drawSign(track, { x, ms, logs }) {
    const weight = (log) => LEVELS.indexOf(kindOfLevel(log.level));
    const worst = logs.reduce((found, log) => (weight(log) > weight(found) ? log : found));
    const more = logs.length > 1 ? `, and ${number(logs.length - 1)} more` : "";
    const title = `+${duration(ms)} ${printable(worst.level, 20)}: ${printable(worst.msg)}${more}`;
    const place = Math.min(Math.max(x, 6), this.track - 6);
    const made = sign(track, kindOfLevel(worst.level), place, 8, title);
    made.addEventListener("pointerenter", () => this.pointLog(worst));
    made.addEventListener("pointerleave", () => this.pointLog(null));
    made.addEventListener("click", () => this.handlers.onLog?.(worst, true));
    this.signs.push({ made, logs });
  }

  drawLegend(outer) {
    const pairs = [];
    if (this.logs.length) pairs.push(["log", "● info"], ["warn", "▲ warning"], ["bad", "◆ error"]);
    if (!this.marks.length && !this.logs.length) return;
    const line = legend(outer, []);
    for (const [kind, word] of pairs) part(line, "span", `sign-${kind}`, word);
    if (this.marks.length) part(line, "span", "", `┆ usual p50 and p95 of ${counted(this.usual.count, "call")}`);
  }

  listen() {
    const rowOf = (event) => this.rows[event.target.closest?.("[data-index]")?.dataset.index];
    this.list.addEventListener("pointerover", (event) => this.point(rowOf(event)?.span ?? null));
    this.list.addEventListener("pointerleave", () => this.point(null));
    this.list.addEventListener("focusin", (event) => this.point(rowOf(event)?.span ?? null));
    this.list.addEventListener("focusout", () => this.point(null));
    this.list.addEventListener("keydown", (event) => this.pressed(event));
    this.list.addEventListener("click", (event) => {
      const index = event.target.closest?.("[data-index]")?.dataset.index;
      if (index !== undefined) this.choose(Number(index));
    });
  }

  point(span) {
    if (span === this.pointed) return;
    this.pointed = span;
    this.highlight(span ? span.id : null);
    this.handlers.onSpan?.(span, false);
  }

  pointLog(log) {
    this.highlight(log ? log.seq : null);
    this.handlers.onLog?.(log, false);
  }

  pressed(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowPx) - 1);
    const last = this.rows.length - 1;
    const below = this.rows.findIndex((row) => row.up === this.active);
    const next = {
      ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page,
      Home: 0, End: last, ArrowLeft: this.rows[this.active].up, ArrowRight: below < 0 ? this.active : below,
    }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") this.choose(this.active);
    else if (next !== undefined) this.focus(Math.min(Math.max(next, 0), last));
    else return;
    event.preventDefault();
  }

  choose(index) {
    this.focus(index);
    if (this.rows[index].span) this.handlers.onSpan?.(this.rows[index].span, true);
  }

  focus(index) {
    this.drawn.get(this.active)?.setAttribute("tabindex", "-1");
    this.active = index;
    const top = index * this.rowPx;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    if (top + this.rowPx > scrollTop + clientHeight) this.scroller.scrollTop = top + this.rowPx - clientHeight;
    this.drawRows();
    const row = this.drawn.get(index);
    row.setAttribute("tabindex", "0");
    row.focus({ preventScroll: true });
  }

  /** Lights a span's row and the signs of its records, or a record's sign and the row of its span. */
  highlight(id) {
    const log = typeof id === "number" ? this.logs.find((one) => one.seq === id) : null;
    this.lit = { span: log ? log.span_id : id, log: log ?? null };
    for (const [index, row] of this.drawn) row.classList.toggle("lit", this.isLit(this.rows[index]));
    for (const { made, logs } of this.signs) made.classList.toggle("lit", logs.some((log) => this.isLogLit(log)));
  }

  isLit(row) {
    return Boolean(row.span && this.lit?.span != null && row.span.id === this.lit.span);
  }

  isLogLit(log) {
    return this.lit.log ? log === this.lit.log : this.lit.span != null && log.span_id === this.lit.span;
  }
}

/** The usual p50 and p95 to compare with; none of a few calls. */
function marksOf(usual) {
  if (!(usual?.count >= LEAST_CALLS)) return [];
  return ["p50", "p95"].map((name) => ({ name, ms: usual[`${name}_ms`] })).filter(({ ms }) => Number.isFinite(ms));
}
