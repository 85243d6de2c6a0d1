// Traces: the live list, and the opened trace beside it.

import { change, to } from "./address.js";
import { el } from "./dom.js";
import { Feed, nothingYet } from "./feed.js";
import { List } from "./list.js";
import { split } from "./split.js";
import { TracePane } from "./trace.js";
import { iso, MAX_HINT, outcome, resultClass, short, took, when } from "./words.js";

const EXAMPLE = `hearthnet call experimental.echo --body '{"input": {"text": "hello"}}'`;
const SHORTEST_SCALE_MS = 1; // a list of calls below this shows short bars, not full ones

/** Returns the view. */
export function traces({ say }) {
  let slowest = SHORTEST_SCALE_MS;
  const list = new List({
    kind: "trace",
    label: "Traces",
    onOpen: (row) => change({ open: row.seq }, list.opened !== null),
    rowClass: (row) => (resultClass(row.result) === "bad" ? "failed" : ""),
    columns: [
      { name: "time", title: "started", cell: (row) => when(row.started_us) },
      {
        name: "name",
        title: "capability",
        cell: (row) => short(row.capability),
        hint: (row) => short(row.capability, MAX_HINT),
      },
      { name: "bar", title: "", cell: (row) => bar(row, slowest) },
      { name: "took", title: "took", cell: (row) => took(row.duration_ms) },
      { name: "result", title: "result", cell: (row) => outcome(row.result) },
      { name: "error", title: "error", cell: (row) => short(row.error), hint: (row) => short(row.error, MAX_HINT) },
      { name: "program", title: "program", cell: (row) => row.program ?? "" },
      { name: "spans", title: "spans", cell: (row) => String(row.span_count) },
    ],
  });
  const feed = new Feed({
    path: "traces",
    noun: "trace",
    list,
    say,
    orders: true,
    asText: (row) =>
      [iso(row.started_us), row.trace_id, row.capability, row.result, took(row.duration_ms), row.error ?? ""].join(
        "  ",
      ),
    empty: () => nothingYet(say, "trace", "Make one: ", EXAMPLE),
  });
  const scale = () => {
    const now = list.rows.reduce((most, row) => Math.max(most, row.duration_ms), SHORTEST_SCALE_MS);
    if (now === slowest) return;
    slowest = now;
    list.redraw();
  };
  const pane = new TracePane({ say, onClose: () => change({ open: "", at: "" }) });
  const { root, open } = split(feed.root, pane.root);
  return {
    root,
    title: "Traces",
    async show({ q = "", order = "newest", open: seq, at }) {
      const opened = seq ? Number(seq) : null;
      open(opened !== null);
      list.mark(opened);
      await Promise.all([feed.show(q, order).then(scale), opened === null ? pane.clear() : pane.show(opened, at)]);
    },
    shown() {
      list.restore();
      feed.wake();
    },
    hidden: () => list.keep(),
    redraw: () => {
      list.redraw();
      pane.redraw();
    },
    reset: (isOther) => (isOther ? feed.load() : feed.catchUp()),
    event(name, data) {
      if (name === "skipped") feed.skipped();
      if (name === "hello" && feed.query !== null) feed.catchUp();
      if (name !== "traces") return;
      feed.arrived(data);
      scale();
    },
    key: (name) => list.key(name, () => change({ open: "", at: "" })),
    search: (q) => to("traces", { q, order: feed.order === "newest" ? "" : feed.order }),
  };
}

function bar(row, slowest) {
  const outer = el("span.took-bar", { "aria-hidden": "true" });
  const inner = el(`span.t-${resultClass(row.result)}`);
  inner.style.width = `max(2px, ${(100 * row.duration_ms) / slowest}%)`;
  outer.append(inner);
  return outer;
}
