// A list that follows the node: pages, live rows, rows held back while somebody reads, and what to say if there are none.

import { ApiError, get } from "./api.js";
import { change, to } from "./address.js";
import { add, button, el, fill, keepFocus } from "./dom.js";
import { around, fixedTime, timeTerms, without } from "./query.js";
import { showAsText } from "./text.js";
import { clock, command, copy, number, when } from "./words.js";

const PAGE = 100;
const MAX_HELD = 1_000;
const REFETCH_MS = 2_000; // a filtered list is asked for anew this often at most
const RESTLESS_MS = 2_000; // a pointer that moved within this time may be about to click

/** What Traces and Logs have in common; `asText(row)` is a line of the view as text. */
export class Feed {
  query = null;
  order = "newest";
  #held = [];
  #isHeldOver = false; // there are more than are held
  #isGap = false;
  #isAsleep = false;
  #next = null;
  #answer = null;
  #abort = null;
  #isPaging = false;
  #refetch = 0;
  #isLate = false; // rows came while the node was asked: they may not be in its page
  #movedAt = 0;

  constructor({ path, noun, list, say, asText, empty, orders = false }) {
    Object.assign(this, { path, noun, list, say, asText, empty });
    this.chips = el("div.chips");
    this.sql = el("div.sql-shown", { hidden: true });
    this.count = el("span.soft");
    this.news = button("", () => this.showNews(), { class: "news", hidden: true });
    this.message = el("div.message", { hidden: true });
    const order =
      orders &&
      el(
        "span.choice",
        { role: "group", "aria-label": "Order" },
        ["newest", "slowest"].map((name) =>
          button(name, () => change({ order: name === "newest" ? "" : name }), { "data-order": name }),
        ),
      );
    this.orders = order || null;
    this.bar = el(
      "div.bar",
      {},
      order,
      this.count,
      this.news,
      el("span.grow"),
      button("As text", () => this.showText(), { title: "For the browser's own search, and to copy" }),
      button("Link", () => this.copyLink(), { title: "Copy a link with fixed times" }),
    );
    this.root = el(
      "section.panel.feed",
      { "aria-label": noun },
      this.bar,
      this.chips,
      this.sql,
      this.message,
      list.root,
    );
    list.onEnd = () => this.more();
    list.onScroll = () => this.#flow();
    list.root.addEventListener("pointermove", () => {
      this.#movedAt = performance.now();
    });
    list.root.addEventListener("pointerleave", () => {
      this.#movedAt = 0;
      this.#flow();
    });
  }

  /** Takes note that the list may lack rows: it was not on the screen. */
  wake() {
    this.#isAsleep = true;
  }

  /** Shows a query: loads it, or if it is there already catches up with what came while it was hidden. */
  async show(query, order = "newest") {
    for (const node of this.orders?.children ?? []) {
      node.setAttribute("aria-pressed", String(node.dataset.order === order));
    }
    const isSame = this.query === query && this.order === order && this.#answer !== null;
    [this.query, this.order] = [query, order];
    if (!isSame) this.#begin();
    if (!isSame) await this.load();
    else if (this.#isAsleep) await this.catchUp();
    this.#isAsleep = false;
  }

  // The rows on the screen are of another query: nothing is added to them.
  #begin() {
    this.#answer = this.#next = null;
    clearTimeout(this.#refetch);
    this.#refetch = 0;
    this.#release([]);
  }

  /** Loads the first page. */
  async load() {
    this.root.setAttribute("aria-busy", "true");
    const answer = await this.#page();
    if (!this.#abort) this.root.removeAttribute("aria-busy");
    if (!answer) return;
    this.#take(answer);
    this.list.set(answer[this.path]);
    this.#release([]);
    this.list.toTop();
    this.#tell(answer);
    this.say(this.#counted(answer), true);
    await this.#askLate();
  }

  /** Asks for the first page again, and merges it. */
  async catchUp() {
    if (this.#abort) {
      this.#isLate = true;
      return undefined;
    }
    if (this.#answer === null) return this.load();
    if (this.order !== "newest") return this.#markStale();
    const answer = await this.#page();
    if (!answer) return undefined;
    const rows = answer[this.path];
    const newest = this.list.rows[0]?.seq ?? -1;
    const isGap = rows.length === PAGE && rows.at(-1).seq > newest && newest >= 0;
    this.#take(answer, this.list.rows.length > 0);
    if (isGap) this.skipped();
    this.#merge(rows);
    this.#tell(answer);
    return this.#askLate();
  }

  async #askLate() {
    if (!this.#isLate) return;
    this.#isLate = false;
    if (this.query.trim()) this.arrived([]);
    else await this.catchUp();
  }

  /** Takes rows of the stream. They are of everything, so a filtered list asks the node again. */
  arrived(rows) {
    if (this.#abort) this.#isLate = true;
    if (this.#abort || this.#answer === null) return;
    if (this.order !== "newest") this.#markStale();
    else if (this.query.trim() === "") {
      this.#merge(rows);
      this.#answer.count += rows.length;
      this.#tell(this.#answer);
    } else if (!this.#refetch) {
      this.#refetch = setTimeout(() => {
        this.#refetch = 0;
        this.catchUp();
      }, REFETCH_MS);
    }
  }

  /** Takes note that the stream dropped rows: the next ones do not follow those that are shown. */
  skipped() {
    this.#isGap = true;
  }

  /** Shows the rows that were held back. */
  async showNews() {
    this.list.selected = null;
    if (this.#isHeldOver || this.order !== "newest") await this.load();
    else {
      this.list.prepend(this.#held);
      this.#release([]);
    }
    this.list.toTop();
  }

  /** Loads the next page. */
  async more() {
    if (this.#isPaging || this.#next === null) return;
    this.#isPaging = true;
    const { query, order } = this;
    const before = this.#next;
    const hasMoved = () => this.#next !== before || this.query !== query || this.order !== order;
    try {
      const answer = await get(this.path, { ...this.#asked(), before });
      if (!hasMoved()) this.#append(answer);
    } catch (error) {
      if (!hasMoved()) this.#fail(error);
    } finally {
      this.#isPaging = false;
    }
    if (hasMoved() && this.list.rows.length < PAGE) this.more();
  }

  #append(answer) {
    const known = new Set(this.list.rows.map(({ seq }) => seq));
    const isAll = this.list.append(answer[this.path].filter(({ seq }) => !known.has(seq)));
    this.#next = isAll ? answer.next : null;
    this.#tell(this.#answer);
  }

  #asked() {
    return { q: this.query, n: PAGE, ...(this.orders ? { order: this.order } : {}) };
  }

  async #page() {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    try {
      return await get(this.path, this.#asked(), abort.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(error);
      return null;
    } finally {
      if (this.#abort === abort) this.#abort = null;
    }
  }

  #take(answer, keepNext = false) {
    this.#answer = answer;
    if (!keepNext) this.#next = answer.next;
    this.#showTerms(answer);
  }

  #merge(rows) {
    const newest = this.#held[0]?.seq ?? this.list.rows[0]?.seq ?? -1;
    const fresh = rows.filter(({ seq }) => seq > newest).sort((a, b) => b.seq - a.seq);
    if (!fresh.length) return;
    if (this.#isGap) return this.#mergeGap(fresh);
    const held = [...fresh, ...this.#held];
    this.#release(held);
    this.#flow();
  }

  // A list never has a hole: it begins anew with the newest rows, and goes on below them page by page.
  #mergeGap(fresh) {
    this.#isGap = false;
    if (this.#isHeldNow()) {
      this.#release([...fresh, ...this.#held]);
      this.#isHeldOver = true;
      return;
    }
    this.list.set(fresh);
    this.#release([]);
    this.#next = String(fresh.at(-1).seq); // in this order the cursor is the last row's seq
    if (fresh.length < PAGE) this.more();
  }

  #release(held) {
    if (!held.length) this.#isHeldOver = false;
    if (held.length > MAX_HELD) this.#isHeldOver = true;
    this.#held = held.slice(0, MAX_HELD);
    this.news.hidden = !this.#held.length;
    this.news.textContent = `${number(this.#held.length)}${this.#isHeldOver ? "+" : ""} new`;
  }

  #markStale() {
    this.news.hidden = false;
    this.news.textContent = "new: load again";
  }

  #isHeldNow() {
    return !this.list.isAtTop || this.list.opened !== null || this.list.selected !== null || this.#isRestless();
  }

  // A click that is on its way must find the row that it was meant for.
  #isRestless() {
    return this.#movedAt > 0 && performance.now() - this.#movedAt < RESTLESS_MS;
  }

  #flow() {
    if (this.#held.length && this.#isRestless()) setTimeout(() => this.#flow(), RESTLESS_MS);
    if (!this.#held.length || this.#isHeldNow() || this.#isHeldOver || this.order !== "newest") return;
    this.list.prepend(this.#held);
    this.#release([]);
  }

  #showTerms({ terms, problems, sql, values }) {
    const chips = terms.map((term) =>
      el(
        "span.chip",
        {},
        term.text,
        button("✕", () => change({ q: without(this.query, [term]), open: "" }), {
          "aria-label": `remove ${term.text}`,
        }),
      ),
    );
    const isSql = !this.sql.hidden;
    const shown =
      sql &&
      el(
        "button.chip.soft",
        {
          type: "button",
          "aria-expanded": String(isSql),
          click: (event) => {
            this.sql.hidden = !this.sql.hidden;
            event.currentTarget.setAttribute("aria-expanded", String(!this.sql.hidden));
          },
        },
        "SQL",
      );
    keepFocus(this.chips, () => fill(this.chips, chips, this.query.trim() && shown));
    fill(
      this.sql,
      el("pre", {}, sql ?? ""),
      values?.length ? el("p.soft", {}, `values: ${JSON.stringify(values)}`) : null,
      sql && button("Copy", () => copy(sql, this.say), { class: "small" }),
    );
    if (!this.query.trim()) this.sql.hidden = true;
    this.problems = problems;
  }

  #counted({ count, count_is_exact: isExact }) {
    return `${number(count)}${isExact ? "" : "+"} ${count === 1 && isExact ? this.noun : `${this.noun}s`}`;
  }

  #tell(answer) {
    const shown = this.list.rows.length;
    const isAll = this.#next === null;
    this.count.textContent =
      shown && !(isAll && answer.count <= shown)
        ? `${number(shown)} of ${this.#counted(answer)}`
        : this.#counted({ ...answer, count: Math.max(answer.count, shown) });
    const lines = answer.problems.length
      ? this.#problemLines(answer.problems)
      : shown
        ? null
        : this.#emptyLines(answer);
    this.list.root.hidden = lines !== null;
    this.message.hidden = lines === null;
    fill(this.message, lines);
  }

  #problemLines(problems) {
    return problems.map((problem) => {
      const [before, within, after] = around(this.query, problem);
      return el(
        "div.problem",
        {},
        el("p.query", {}, before, el("mark", {}, within || " "), after),
        el("p", {}, problem.message),
        problem.hint ? el("p.soft", {}, problem.hint) : null,
      );
    });
  }

  #emptyLines({ terms, ring, newest_match_us: newest }) {
    if (!this.query.trim()) return this.empty();
    const range = ring?.oldest_us ? `${clock(ring.oldest_us)} to ${clock(ring.newest_us)}` : null;
    const isTimed = timeTerms(terms).length > 0;
    const lines =
      newest && isTimed
        ? [
            el("p", {}, `No ${this.noun}s in this range; the newest match is of `, when(newest), "."),
            button("Widen", () => change({ q: without(this.query, timeTerms(terms)), open: "" })),
          ]
        : [el("p", {}, `No ${this.noun} matches.`), button("Show all", () => change({ q: "", open: "" }))];
    return [...lines, range ? el("p.soft", {}, `The store holds ${this.noun}s from ${range}.`) : null];
  }

  #fail(error) {
    if (!(error instanceof ApiError) || error.status === 401) return;
    const lines = [
      el("p", {}, error.message),
      error.hint ? el("p.soft", {}, error.hint) : null,
      button("Try again", () => this.load()),
    ];
    if (this.#answer !== null && this.list.rows.length) return void this.say(error.message);
    this.list.root.hidden = true;
    this.message.hidden = false;
    fill(this.message, lines);
  }

  /** Shows the loaded rows as text, for the browser's own search, and for copying. */
  showText() {
    showAsText(this.noun, this.list.rows, this.asText, this.say);
  }

  /** Copies a link that shows the same tomorrow: relative times become fixed ones. */
  copyLink() {
    const terms = timeTerms(this.#answer?.terms ?? []);
    const fixed = terms.map(fixedTime).join(" ");
    const query = terms.length ? `${without(this.query, terms)} ${fixed}`.trim() : this.query;
    const order = this.order === "newest" ? "" : this.order;
    const open = this.list.opened ?? "";
    copy(new URL(to(this.path, { q: query, order, open }), location.href).href, this.say);
  }
}

/** What an empty store says, and a command that changes it. */
export function nothingYet(say, noun, before, example) {
  return [el("p", {}, `No ${noun}s yet.`), add(el("p.soft", {}, before), command(example, say))];
}
