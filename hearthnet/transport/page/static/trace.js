// One trace: where its time went, against what is usual; its log records, fields, run and relatives.

import { ApiError, ask, get } from "./api.js";
import { to } from "./address.js";
import { waterfall } from "./drawing.js";
import { add, button, el, fill } from "./dom.js";
import { term } from "./query.js";
import {
  command,
  copy,
  counted,
  download,
  fields,
  levelClass,
  number,
  outcome,
  took,
  valueText,
  when,
} from "./words.js";

const MAX_LOGS = 200; // drawn as lines; the rest is one click away in Logs
const MAX_OTHERS = 50;

/** The pane beside the list. */
export class TracePane {
  #shown = null;
  #data = null;
  #abort = null;

  constructor({ say, onClose }) {
    this.say = say;
    this.onClose = onClose;
    this.root = el("section.panel.pane", { "aria-label": "Opened trace", tabindex: "-1" });
  }

  /** Empties the pane. */
  clear() {
    this.#abort?.abort();
    this.#shown = this.#data = null;
    fill(this.root);
  }

  /** Shows a trace; `at` is the seq of a log record of it to light. */
  async show(seq, at) {
    if (this.#shown === seq) return this.#light(at);
    this.#abort?.abort();
    this.#abort = new AbortController();
    this.#shown = seq;
    this.root.setAttribute("aria-busy", "true");
    try {
      this.#data = await get(`traces/${seq}`, {}, this.#abort.signal);
      if (this.#shown !== seq) return undefined;
      this.redraw();
      this.root.scrollTop = 0;
      this.#light(at);
      const { trace } = this.#data;
      this.say(`${trace.capability}, ${trace.result}, ${took(trace.duration_ms)}`, true);
    } catch (error) {
      if (error instanceof ApiError && this.#shown === seq) this.#fail(error);
    } finally {
      if (this.#shown === seq || this.#shown === null) this.root.removeAttribute("aria-busy");
    }
    return undefined;
  }

  /** Draws again what is shown. */
  redraw() {
    if (!this.#data) return;
    const { trace, logs, usual, run, others } = this.#data;
    this.detail = el("div.span-detail", { "aria-live": "polite" });
    this.lines = this.#logLines(trace, logs);
    const host = el("div.waterfall-host");
    fill(
      this.root,
      this.#head(trace, usual),
      this.#actions(trace),
      trace.error && el("p.error", {}, trace.error),
      host,
      this.detail,
      this.lines,
      this.#about(trace, run),
      this.#others(others),
    );
    this.drawn = waterfall(
      host,
      { trace, logs, usual, run, width: host.clientWidth || 600 },
      {
        onSpan: (span, isChosen) => {
          if (isChosen) this.#showSpan(span, usual);
        },
        onLog: (log, isChosen) => this.#light(log?.seq, isChosen),
      },
    );
  }

  #fail(error) {
    this.#shown = this.#data = null;
    fill(
      this.root,
      el("div.bar", {}, el("span.grow"), this.#closeButton()),
      el("p", {}, error.message),
      el("p.soft", {}, error.status === 404 ? "Newer traces have taken its place in the store." : error.hint),
    );
  }

  #closeButton() {
    return button("Close", this.onClose, { class: "close", title: "Esc" });
  }

  #head(trace, usual) {
    const title = el(
      "h2",
      {},
      el("a", { href: to("traces", { q: term("cap", trace.capability) }) }, trace.capability),
      " ",
      outcome(trace.result),
    );
    const usually =
      usual?.p50_ms !== null && usual?.p50_ms !== undefined
        ? `usually ${took(usual.p50_ms)} (p95 ${took(usual.p95_ms)})`
        : `${counted(usual?.count ?? 0, "call")} in the store, too few for what is usual`;
    return el(
      "header",
      {},
      el("div.bar", {}, title, el("span.grow"), this.#closeButton()),
      el(
        "p.soft",
        {},
        when(trace.started_us, { millis: true }),
        " · ",
        el("b", {}, took(trace.duration_ms)),
        ` · ${usually}`,
      ),
      el("p.mono.id", {}, trace.trace_id),
    );
  }

  #actions(trace) {
    const link = () => new URL(to("traces", { open: trace.seq }), location.href).href;
    return el(
      "div.bar",
      {},
      button("Copy id", () => copy(trace.trace_id, this.say)),
      button("Copy command", () => copy(`hearthnet trace show ${trace.trace_id}`, this.say), {
        title: `hearthnet trace show ${trace.trace_id}`,
      }),
      button("Copy link", () => copy(link(), this.say)),
      button("OTLP", () => this.#otlp(trace), { title: "Download as OTLP JSON" }),
      el("a.button", { href: to("logs", { q: term("trace", trace.trace_id) }) }, "Its logs"),
    );
  }

  async #otlp(trace) {
    try {
      const response = await ask(`traces/${trace.seq}/otlp`);
      download(`${trace.trace_id}.otlp.json`, await response.text(), "application/json");
    } catch (error) {
      this.say(error.message);
    }
  }

  #showSpan(span, usual) {
    if (!span) return void fill(this.detail);
    const known = usual?.spans?.[span.name];
    const compared =
      known?.p50_ms !== null && known?.p50_ms !== undefined
        ? ` · usually ${took(known.p50_ms)} (p95 ${took(known.p95_ms)})`
        : "";
    fill(
      this.detail,
      el(
        "h3",
        {},
        el("span.mono", {}, span.name),
        " ",
        outcome(span.status),
        el("span.soft", {}, ` ${took(span.duration_ms)} from +${took(span.offset_ms)}${compared}`),
      ),
      fields(span.extras, "Fields of the span") ?? el("p.soft", {}, "no fields"),
    );
    return undefined;
  }

  #logLines(trace, logs) {
    if (!logs.length) return el("p.soft", {}, "No log records.");
    const rows = logs.slice(0, MAX_LOGS).map((log) => {
      const row = el(
        "tr",
        {
          tabindex: "0",
          mouseenter: () => this.drawn?.highlight?.(log.seq),
          mouseleave: () => this.drawn?.highlight?.(null),
          focus: () => this.drawn?.highlight?.(log.seq),
          blur: () => this.drawn?.highlight?.(null),
        },
        el("td.num.soft", {}, `+${took((log.ts_us - trace.started_us) / 1000)}`),
        el(`td.${levelClass(log.level)}`, {}, log.level),
        el(
          "td.wrap",
          {},
          el("a", { href: to("logs", { q: term("trace", trace.trace_id), open: log.seq }) }, log.msg),
          log.repeats ? el("span.soft", {}, ` ×${log.repeats + 1}`) : null,
          " ",
          el("span.soft", {}, inline(log.extras)),
        ),
      );
      row.dataset.seq = log.seq;
      return row;
    });
    const more =
      logs.length > MAX_LOGS &&
      el(
        "p.soft",
        {},
        `${number(MAX_LOGS)} of ${number(logs.length)}; `,
        el("a", { href: to("logs", { q: term("trace", trace.trace_id) }) }, "all of them"),
      );
    return el("div", {}, el("table.mono.log-lines", { "aria-label": "Log records" }, el("tbody", {}, rows)), more);
  }

  #light(seq, isWanted = true) {
    if (!this.lines) return;
    for (const row of this.lines.querySelectorAll("tr.lit")) row.classList.remove("lit");
    if (seq === undefined || seq === null) return;
    const row = this.lines.querySelector(`tr[data-seq="${Number(seq)}"]`);
    if (!row) return;
    row.classList.add("lit");
    if (isWanted) row.scrollIntoView({ block: "nearest" });
  }

  #about(trace, run) {
    const real = {
      version: trace.version,
      caller: trace.extras?.caller,
      parent: trace.parent_id,
      program: trace.program,
    };
    const isKnown = ([, value]) => value !== null && value !== undefined;
    const known = Object.fromEntries(Object.entries(real).filter(isKnown));
    // Twice: they come first, and an extra of the same name does not hide them.
    const all = { ...known, ...trace.extras, ...known };
    const shown = Object.fromEntries(Object.entries(all).filter(isKnown));
    const lives =
      run &&
      el(
        "p.soft",
        {},
        "run ",
        el("a.mono", { href: to("runs", { open: trace.run_id }) }, trace.run_id),
        ` of ${run.program || "a program"}${run.is_alive ? ", still running" : ""}, started `,
        when(run.started_us),
      );
    const truncated = trace.truncated_spans
      ? el("p.t-warn", {}, `${counted(trace.truncated_spans, "span")} more did not fit into the record`)
      : null;
    return el("div.about", {}, truncated, lives, fields(shown, "Fields of the trace"));
  }

  #others(others) {
    if (!others?.length) return null;
    return el(
      "div",
      {},
      el("h3", {}, "Other records of this trace"),
      el(
        "ul.others",
        {},
        others
          .slice(0, MAX_OTHERS)
          .map((other) =>
            el(
              "li",
              {},
              el("a", { href: to("traces", { open: other.seq }) }, other.capability),
              " ",
              outcome(other.result),
              el("span.soft", {}, ` ${took(other.duration_ms)} · `),
              when(other.started_us, { millis: true }),
              other.program ? el("span.soft", {}, ` · ${other.program}`) : null,
            ),
          ),
      ),
    );
  }
}

/** Returns fields in one line, as the CLI prints them. */
export function inline(extras) {
  return Object.entries(extras ?? {})
    .map(([name, value]) => `${name}=${valueText(value)}`)
    .join(" ");
}

/** Returns what to do about a command, or nothing. */
export function fixLine(fix, say) {
  return fix ? add(el("p.fix", {}, "fix: "), command(fix, say)) : null;
}
