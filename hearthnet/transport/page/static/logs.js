// Logs: the live tail, and the opened record beside it with its fields, traceback and trace.

import { get } from "./api.js";
import { change, go, to } from "./address.js";
import { button, el, fill } from "./dom.js";
import { Feed, nothingYet } from "./feed.js";
import { List } from "./list.js";
import { term, withTerm } from "./query.js";
import { split } from "./split.js";
import { inline } from "./trace.js";
import { copy, fields, iso, levelClass, MAX_HINT, short, when } from "./words.js";

const LEVELS = ["", "debug", "info", "warning", "error"];

// What is between spaces, where a quoted text is one piece.
const PIECES = /(?:"(?:\\.|[^"\\])*"|[^\s"])+\s*|"/g;

/** Returns the view. */
export function logs({ say }) {
  const list = new List({
    kind: "log",
    label: "Log records",
    onOpen: (row) => change({ open: row.seq }, list.opened !== null),
    rowClass: (row) => (levelClass(row.level) === "t-bad" ? "failed" : ""),
    columns: [
      { name: "time", title: "time", cell: (row) => when(row.ts_us, { millis: true }) },
      { name: "level", title: "level", cell: (row) => el(`span.${levelClass(row.level)}`, {}, row.level) },
      { name: "logger", title: "component", cell: (row) => short(row.logger), hint: (row) => row.logger },
      { name: "msg", title: "message", cell: message, hint: (row) => short(row.msg, MAX_HINT) },
      { name: "program", title: "program", cell: (row) => row.program ?? "" },
    ],
  });
  const feed = new Feed({
    path: "logs",
    noun: "log record",
    list,
    say,
    asText: (row) =>
      [iso(row.ts_us), row.level, row.logger, row.msg, inline(row.extras), row.exc ?? ""].join("  ").trimEnd(),
    empty: () => nothingYet(say, "log record", "To record more: ", "hearthnet log level debug"),
  });
  const level = levels();
  feed.bar.prepend(level);
  const pane = el("section.panel.pane", { "aria-label": "Opened log record", tabindex: "-1" });
  const close = () => change({ open: "" });
  const { root, open } = split(feed.root, pane);
  const showRecord = async (seq, q) => {
    const row = list.rows.find((known) => known.seq === seq) ?? (await older(seq));
    if (list.opened !== seq) return;
    fill(
      pane,
      row
        ? record(row, q, close, say)
        : [el("div.bar", {}, el("span.grow"), button("Close", close)), el("p", {}, "This record is not in the list.")],
    );
  };
  return {
    root,
    title: "Logs",
    async show({ q = "", open: seq }) {
      const opened = seq ? Number(seq) : null;
      open(opened !== null);
      list.mark(opened);
      level.value = leastLevel(q);
      await feed.show(q);
      if (opened === null || list.opened !== opened) return;
      list.select(opened);
      await showRecord(opened, q);
    },
    shown() {
      list.restore();
      feed.wake();
    },
    hidden: () => list.keep(),
    redraw: () => list.redraw(),
    reset: (isOther) => (isOther ? feed.load() : feed.catchUp()),
    event(name, data) {
      if (name === "skipped") feed.skipped();
      if (name === "hello" && feed.query !== null) feed.catchUp();
      if (name === "logs") feed.arrived(data);
    },
    key: (name) => list.key(name, close),
    search: (q) => to("logs", { q }),
  };
}

function message(row) {
  const repeats = row.repeats ? ` ×${row.repeats + 1}` : "";
  return [short(row.msg) + repeats, el("span.soft", {}, `  ${short(inline(row.extras))}`)];
}

// The list has only the pages that were loaded.
async function older(seq) {
  const { logs: rows } = await get("logs", { n: 1, before: seq + 1 }).catch(() => ({ logs: [] }));
  return rows.find((row) => row.seq === seq);
}

function leastLevel(q) {
  const pieces = (q.match(PIECES) ?? []).map((piece) => piece.trim());
  return LEVELS.find((level) => level && pieces.includes(`level:>=${level}`)) ?? "";
}

function levels() {
  const select = el(
    "select",
    {
      "aria-label": "Least level",
      change: () => {
        const { q = "" } = Object.fromEntries(new URLSearchParams(location.hash.split("?")[1] ?? ""));
        const others = q.replace(PIECES, (piece) => (piece.startsWith("level:") ? "" : piece)).trim();
        change({ q: select.value ? withTerm(others, `level:>=${select.value}`) : others, open: "" });
      },
    },
    LEVELS.map((level) => el("option", { value: level }, level ? `${level} and worse` : "all levels")),
  );
  return select;
}

function record(row, q, close, say) {
  const filter = (field, value) => el("a", { href: to("logs", { q: withTerm(q, term(field, value)) }) }, short(value));
  return [
    el(
      "div.bar",
      {},
      el("h2", {}, el(`span.${levelClass(row.level)}`, {}, row.level), " ", filter("logger", row.logger)),
      el("span.grow"),
      button("Close", close, { class: "close", title: "Esc" }),
    ),
    el(
      "p.soft",
      {},
      when(row.ts_us, { millis: true }),
      row.program ? ` · ${row.program}` : "",
      row.repeats ? ` · ${row.repeats} more like it` : "",
    ),
    el("p.msg", {}, row.msg),
    el(
      "div.bar",
      {},
      button("Copy message", () => copy(row.msg, say)),
      row.trace_id ? button("Open its trace", () => openTrace(row, say)) : null,
      row.trace_id ? button("Copy command", () => copy(`hearthnet log --trace ${row.trace_id}`, say)) : null,
    ),
    fields(
      {
        ...row.extras,
        ...(row.trace_id ? { trace: row.trace_id } : {}),
        ...(row.span_id ? { span: row.span_id } : {}),
      },
      "Fields",
    ),
    row.exc ? el("pre.exc", { tabindex: "0" }, row.exc) : null,
  ];
}

// A record knows its trace's id; which row that is, the node knows.
async function openTrace(row, say) {
  try {
    const { traces } = await get("traces", { q: term("trace", row.trace_id), n: 20 });
    const found = traces.find(({ run_id: run }) => run === row.run_id) ?? traces[0];
    if (found) go("traces", { q: term("trace", row.trace_id), open: found.seq, at: row.seq });
    else say("its trace has not ended yet, or is no longer in the store");
  } catch (error) {
    say(error.message);
  }
}
