// A list of many rows of which only the visible ones are nodes. Rows are known by key; one can be selected.

import { el, fill } from "./dom.js";
import { isToday } from "./words.js";

const HEAD_PX = 24;
const SPARE = 6; // rows drawn beyond each edge
export const MAX_ROWS = 10_000; // in memory; the node's ring has as many by default

/**
 * A grid with a header and a scrolling body.
 * `columns`: `[{name, title, cell(row) → node or text, hint(row) → text}]`; `onOpen(row)`; `onEnd()` near the last row;
 * `onScroll()`; `rowClass(row)`.
 */
export class List {
  rows = [];
  selected = null;
  opened = null;
  #nodes = new Map();
  #frame = 0;
  #kept = 0;

  constructor({ kind, label, columns, onOpen, onEnd, onScroll = () => {}, rowClass = () => "" }) {
    Object.assign(this, { kind, columns, onOpen, onEnd, onScroll, rowClass });
    this.space = el("div.space", { role: "rowgroup" });
    const heads = columns.map(({ name, title }) => el(`span.c-${name}`, { role: "columnheader" }, title));
    const head = el(
      "div.heads",
      { role: "rowgroup" },
      el(`div.row.head.${kind}`, { role: "row", "aria-rowindex": "1" }, heads),
    );
    const attributes = { role: "grid", tabindex: "0", "aria-label": label, "aria-rowcount": "1" };
    this.root = el("div.list", { ...attributes, scroll: () => this.#scrolled() }, head, this.space);
    this.root.addEventListener("click", (event) => this.#clicked(event));
    // To read a size after a change costs a layout, so it is read when it changes.
    new ResizeObserver(() => this.#resized()).observe(this.root);
  }

  /** The rows' height, which the style sheet decides. */
  get height() {
    return (this.#height ||= Number.parseFloat(getComputedStyle(this.root).getPropertyValue("--row")) || 28);
  }

  #height = 0;
  #viewHeight = 0; // of the rows: the heads stay above them

  /** Replaces all rows; keeps selection by key. */
  set(rows) {
    this.rows = rows.slice(0, MAX_ROWS);
    this.#forget();
    this.#measure();
    this.draw();
  }

  /** Puts rows before the first; the oldest beyond the bound go. */
  prepend(rows) {
    this.rows = [...rows, ...this.rows].slice(0, MAX_ROWS);
    this.#measure();
    this.draw();
  }

  /** Puts rows after the last; returns whether there was space for all. */
  append(rows) {
    const space = MAX_ROWS - this.rows.length;
    this.rows.push(...rows.slice(0, space));
    this.#measure();
    this.draw();
    return rows.length <= space;
  }

  /** Whether the first row is in view. */
  get isAtTop() {
    return this.root.scrollTop < this.height;
  }

  /** Goes to the first row. */
  toTop() {
    this.root.scrollTop = 0;
  }

  /** Keeps the place while the list is hidden; what is open then, the address says. */
  keep() {
    this.selected = this.opened = null;
    this.#kept = this.root.scrollTop;
  }

  /** Goes back to the place. */
  restore() {
    this.#resized();
    this.root.scrollTop = this.#kept;
    this.draw();
  }

  /** Selects the next or the previous row. */
  move(by) {
    if (!this.rows.length) return;
    const at = this.#indexOf(this.selected);
    const target = at < 0 ? 0 : Math.min(this.rows.length - 1, Math.max(0, at + by));
    this.select(this.rows[target].seq);
    if (by > 0 && target > this.rows.length - 20) this.onEnd();
  }

  /** Opens the selected row. */
  open() {
    const row = this.rows[this.#indexOf(this.selected)];
    if (row) this.onOpen(row);
  }

  /** Does what j, k, Enter and Esc mean here; returns whether there was something to do. `close` closes the opened. */
  key(name, close) {
    if (name === "j" || name === "ArrowDown") this.move(1);
    else if (name === "k" || name === "ArrowUp") this.move(-1);
    else if (name === "Enter") this.open();
    else if (name === "Escape" && this.opened !== null) close();
    else if (name === "Escape" && this.selected !== null) this.select(null);
    else return false;
    if (this.opened !== null && ["j", "k", "ArrowDown", "ArrowUp"].includes(name)) this.open();
    return true;
  }

  /** Selects a row by key and brings it into view. */
  select(key) {
    this.selected = key;
    const at = this.#indexOf(key);
    if (at >= 0) this.#reveal(at);
    this.draw();
  }

  /** Marks the row that is shown beside the list. */
  mark(key) {
    this.opened = key;
    if (key !== null) this.selected = key;
    this.draw();
  }

  /** Draws what is visible, at once. */
  draw() {
    const height = this.height;
    const { scrollTop } = this.root;
    const first = Math.max(0, Math.floor(scrollTop / height) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + this.#viewHeight) / height) + SPARE);
    const wanted = new Set();
    for (let at = first; at < last; at += 1) wanted.add(this.rows[at].seq);
    for (const [key, node] of this.#nodes) {
      if (wanted.has(key)) continue;
      node.remove();
      this.#nodes.delete(key);
    }
    let next = null; // from the last to the first, so that the document has the rows in their order
    for (let at = last - 1; at >= first; at -= 1) next = this.#place(this.rows[at], at, height, next);
    const active = this.#nodes.get(this.selected);
    if (active) this.root.setAttribute("aria-activedescendant", active.id);
    else this.root.removeAttribute("aria-activedescendant");
  }

  /** Draws every visible row anew: the zone or the width has changed. */
  redraw() {
    this.#height = 0;
    this.#forget();
    this.#measure();
    this.draw();
  }

  #resized() {
    this.#viewHeight = Math.max(0, this.root.clientHeight - HEAD_PX);
    this.draw();
  }

  // What depends on all rows: their height, and how wide the column of times is.
  #measure() {
    this.space.style.height = `${this.rows.length * this.height}px`;
    this.root.setAttribute("aria-rowcount", String(this.rows.length + 1));
    const ends = [this.rows[0], this.rows.at(-1)];
    this.root.classList.toggle(
      "dated",
      ends.some((row) => row && !isToday(row.started_us ?? row.ts_us)),
    );
  }

  #forget() {
    for (const node of this.#nodes.values()) node.remove();
    this.#nodes.clear();
  }

  #place(row, at, height, next) {
    let node = this.#nodes.get(row.seq);
    if (!node) {
      node = el(`div.row.${this.kind}`, { role: "row", id: `${this.kind}-${row.seq}` });
      node.dataset.seq = row.seq;
      const state = this.rowClass(row);
      if (state) node.classList.add(state);
      fill(
        node,
        this.columns.map(({ name, cell, hint = () => null }) =>
          el(`span.c-${name}`, { role: "gridcell", title: hint(row) }, cell(row)),
        ),
      );
      this.#nodes.set(row.seq, node);
      this.space.insertBefore(node, next);
    }
    if (node.at !== at) {
      node.at = at;
      node.style.top = `${at * height}px`;
      node.setAttribute("aria-rowindex", String(at + 2));
    }
    const state = `${row.seq === this.selected} ${row.seq === this.opened}`;
    if (node.state === state) return node;
    node.state = state;
    node.setAttribute("aria-selected", String(row.seq === this.selected));
    node.classList.toggle("opened", row.seq === this.opened);
    return node;
  }

  #indexOf(key) {
    return key === null ? -1 : this.rows.findIndex((row) => row.seq === key);
  }

  #reveal(at) {
    const [top, height] = [at * this.height, this.height];
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (top + height > this.root.scrollTop + this.#viewHeight) {
      this.root.scrollTop = top + height - this.#viewHeight;
    }
  }

  #scrolled() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const { scrollTop } = this.root;
      this.draw();
      this.onScroll();
      if (this.rows.length - (scrollTop + this.#viewHeight) / this.height < 20) this.onEnd();
    });
  }

  #clicked(event) {
    const node = event.target.closest(".row[data-seq]");
    if (!node || getSelection().toString()) return; // a person who marks text does not want it opened
    const row = this.rows[this.#indexOf(Number(node.dataset.seq))];
    if (row) this.onOpen(row);
  }
}
