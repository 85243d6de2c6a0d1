// A trace as a waterfall: a row a span, below its parent, and its log records as signs at their moments.
//
// The rows are a tree for keyboards and screen readers. Thousands of them scroll, and only those in view exist.

import { duration, counted, finite, glyph, kindOfLevel, kindOfStatus, LEAST_CALLS, number, printable, valueTicks } from "./format.js";
import { fitted, legend, part, shape, sign } from "./svg.js";

const NARROW_PX = 560; // below it the bar is under the name
const ROW_PX = 24;
const TALL_ROW_PX = 42;
const SPARE_ROWS = 8; // drawn above and below those in view
const BAR_PX = 12;
const LEAST_BAR_PX = 2;
const SIGN_PX = 8; // records nearer than this share a sign
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
  const byParent = new Map();
  for (const span of [...spans].sort((a, b) => finite(a.offset_ms) - finite(b.offset_ms))) {
    const parent = span.parent ?? null;
    const place = byParent.get(parent);
    if (place) place.push(span);
    else byParent.set(parent, [span]);
  }
  const rows = [{ kind: "trace", level: 1, of: 1, at: 1, up: -1 }];
  const added = new Set();
  const add = (first, level, up) => {
    const waiting = first.map((span, index) => ({ span, level, up, at: index + 1, of: first.length })).reverse();
    while (waiting.length) {
      const row = waiting.pop();
      if (added.has(row.span)) continue;
      added.add(row.span);
      rows.push({ kind: "span", ...row });
      const below = byParent.get(row.span.id ?? null) ?? [];
      if (row.span.id == null) continue; // else the outermost spans would be its children
      const next = { level: row.level + 1, up: rows.length - 1, of: below.length };
      for (let index = below.length; index > 0; index--) waiting.push({ span: below[index - 1], at: index, ...next });
    }
  };
  add(byParent.get(null) ?? [], 2, 0);
  const lost = (first) => {
    rows.push({ kind: "missing", level: 2, of: 1, at: 1, up: 0 });
    add(first, 3, rows.length - 1);
  };
  for (const [parent, children] of byParent) if (parent !== null && !ids.has(parent)) lost(children);
  for (const span of spans) if (!added.has(span)) lost([span]); // each is its own ancestor
  const outermost = rows.filter((row) => row.level === 2);
  outermost.forEach((row, index) => Object.assign(row, { at: index + 1, of: outermost.length }));
  return rows;
}

class Waterfall {
  constructor(trace, logs, usual, run, handlers) {
    Object.assign(this, { trace, logs, usual, handlers, rows: waterfallRows(trace), active: 0, lit: null });
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
    this.drawRows();
    this.scroller.addEventListener("scroll", () => this.drawRows(), { passive: true });
    this.listen();
  }

  measure() {
    const space = this.scroller.clientWidth;
    this.nameShare = this.isNarrow ? 0 : Math.round(Math.min(0.34 * space, 320));
    this.tookPx = this.isNarrow ? 0 : 156;
    this.track = Math.max(40, space - this.nameShare - this.tookPx);
    for (const [name, px] of [["--name", this.nameShare], ["--took", this.tookPx]]) this.outer.style.setProperty(name, `${px}px`);
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
    part(head, "span", "draw-name soft", this.countText());
    const axis = shape(head, "svg", { width: this.track, height: this.marks.length ? 30 : 16, class: "draw-track", "aria-hidden": "true" });
    for (const ms of this.ticks()) {
      const place = this.x(ms);
      const anchor = place < 20 ? "start" : place > this.track - 24 ? "end" : "middle";
      shape(axis, "text", { x: place, y: 11, "text-anchor": anchor }, ms === 0 ? "0" : duration(ms));
    }
    let free = 0;
    for (const { name, ms } of this.marks) {
      const isInside = ms <= this.scale;
      const place = Math.min(Math.max(this.x(ms) - 11, free), this.track - (isInside ? 24 : 34));
      const label = shape(axis, "text", { x: place, y: 26, class: "usual" }, isInside ? name : `${name} →`);
      shape(label, "title", {}, `usually, ${name}: ${duration(ms)}`);
      free = place + 28;
    }
  }

  ticks() {
    return valueTicks(this.scale, Math.max(2, Math.min(6, this.track / 90)));
  }

  drawRows() {
    const height = this.scroller.clientHeight;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / this.rowPx) - SPARE_ROWS);
    const end = Math.min(this.rows.length, first + Math.ceil(height / this.rowPx) + 2 * SPARE_ROWS);
    // The row that has the focus stays, so that the keyboard does not lose its place.
    const wanted = (index) => (index >= first && index < end) || index === this.active;
    for (const [index, row] of this.drawn) {
      if (wanted(index)) continue;
      row.remove();
      this.drawn.delete(index);
    }
    for (let index = first; index < end; index++) this.rowAt(index);
    this.rowAt(this.active);
  }

  rowAt(index) {
    if (!this.drawn.has(index)) this.drawn.set(index, this.drawRow(index));
    return this.drawn.get(index);
  }

  drawRow(index) {
    const row = this.rows[index];
    const said = this.wordsOf(row);
    const line = part(this.list, "div", `draw-line draw-row ${said.kind}`);
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
    const mark = (ms, className) => shape(track, "line", { x1: this.x(ms), x2: this.x(ms), y1: 0, y2: height, class: className });
    for (const ms of this.ticks()) mark(ms, "grid");
    if (row.kind === "missing") return;
    const start = row.span ? finite(row.span.offset_ms) : 0;
    const length = row.span ? finite(row.span.duration_ms) : finite(this.trace.duration_ms);
    const width = Math.max(LEAST_BAR_PX, this.x(start + length) - this.x(start));
    const left = Math.min(this.x(start), this.track - width);
    shape(track, "rect", { x: left, y: (height - BAR_PX) / 2, width, height: BAR_PX, rx: Math.min(3, width / 3), class: `bar ${kind}` });
    for (const { name, ms } of row.span ? marksOf(this.usual?.spans?.[row.span.name]) : this.marks) {
      if (start + ms <= this.scale) mark(start + ms, `usual ${name}`);
    }
  }

  /** The name, duration, kind and description of a row. */
  wordsOf(row) {
    if (row.kind === "missing") {
      const name = "parent not recorded";
      return { name, kind: "missing", took: "", label: name, title: "the spans below name a parent that the trace does not have" };
    }
    const { span } = row;
    const status = span ? span.status : this.trace.result;
    const kind = kindOfStatus(status);
    const lasted = duration(finite(span ? span.duration_ms : this.trace.duration_ms));
    const end = this.isDead ? "end unknown" : "still open";
    const took = kind === "open" ? `≥ ${lasted}, ${end}` : kind === "ok" ? lasted : `${lasted} ${printable(status, 40)}`;
    const name = printable(span ? span.name : this.trace.capability, 200);
    const usual = marksOf(span ? this.usual?.spans?.[span.name] : this.usual);
    const parts = [name, span ? `begins at ${duration(finite(span.offset_ms))}` : "the whole trace"];
    parts.push(kind === "open" ? `at least ${lasted}, ${end}` : `${lasted}, ${printable(status, 40)}`);
    for (const mark of usual) parts.push(`usual ${mark.name} ${duration(mark.ms)}`);
    const label = parts.join(", ");
    const extras = Object.keys(span?.extras ?? {}).length ? `\n${printable(JSON.stringify(span.extras), 600)}` : "";
    return { name, kind, took, label, title: label + extras };
  }

  /** A sign for each record, one of several at the same pixels: the worst, with how many there are. */
  drawLogs(outer) {
    if (!this.logs.length) return;
    const line = part(outer, "div", "draw-line draw-logs");
    part(line, "span", "draw-name soft", counted(this.logs.length, "log record"));
    const counts = LEVELS.map((kind) => this.logs.filter((log) => kindOfLevel(log.level) === kind).length);
    const words = `${counted(this.logs.length, "log record")}: ${counts[1]} warnings, ${counts[2]} errors`;
    const track = shape(line, "svg", { width: this.track, height: 16, class: "draw-track", role: "img", "aria-label": words });
    const worst = (index) => LEVELS.indexOf(kindOfLevel(this.logs[index].level));
    const moments = this.logs.map((log, index) => ({ index, ms: (finite(log.ts_us) - finite(this.trace.started_us)) / 1e3 }));
    const places = [];
    for (const { index, ms } of moments.sort((a, b) => a.ms - b.ms)) {
      const last = places.at(-1);
      if (!last || this.x(ms) - last.x >= SIGN_PX) places.push({ index, ms, x: this.x(ms), count: 1 });
      else Object.assign(last, { index: worst(index) > worst(last.index) ? index : last.index, count: last.count + 1 });
    }
    this.signs = places.map((place) => this.drawSign(track, place));
  }

  drawSign(track, { index, count, x, ms }) {
    const log = this.logs[index];
    const kind = kindOfLevel(log.level);
    const more = count > 1 ? `, and ${count - 1} more` : "";
    const title = `+${duration(ms)} ${printable(log.level, 20)}: ${printable(log.msg)}${more}`;
    const made = sign(track, kind, Math.min(Math.max(x, 6), this.track - 6), 8, title);
    made.dataset.log = index;
    return made;
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
    for (const made of this.signs ?? []) {
      const log = this.logs[made.dataset.log];
      made.addEventListener("pointerenter", () => this.pointLog(log));
      made.addEventListener("pointerleave", () => this.pointLog(null));
      made.addEventListener("click", () => this.handlers.onLog?.(log, true));
    }
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
    }[event.key]; // prettier-ignore
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
    const row = this.rowAt(index);
    row.setAttribute("tabindex", "0");
    row.focus({ preventScroll: true });
    this.drawRows();
  }

  /** Lights a span's row and the signs of its records, or a record's sign and the row of its span. */
  highlight(id) {
    const log = typeof id === "number" ? this.logs.find((one) => one.seq === id) : null;
    this.lit = { span: log ? log.span_id : id, log: log ?? null };
    for (const [index, row] of this.drawn) row.classList.toggle("lit", this.isLit(this.rows[index]));
    for (const made of this.signs ?? []) made.classList.toggle("lit", this.isSignLit(this.logs[made.dataset.log]));
  }

  isLit(row) {
    return Boolean(row.span && this.lit?.span != null && row.span.id === this.lit.span);
  }

  isSignLit(log) {
    return this.lit.log ? log === this.lit.log : this.lit.span != null && log.span_id === this.lit.span;
  }
}

/** The usual p50 and p95 to compare with; none of a few calls. */
function marksOf(usual) {
  if (!(usual?.count >= LEAST_CALLS)) return [];
  return ["p50", "p95"].map((name) => ({ name, ms: usual[`${name}_ms`] })).filter(({ ms }) => Number.isFinite(ms));
}
