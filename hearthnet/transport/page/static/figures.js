// The figures of Now: tiles, calls over time, capabilities.

import { change, to } from "./address.js";
import { bars, range, spark } from "./drawing.js";
import { button, el, table } from "./dom.js";
import { nothingYet } from "./feed.js";
import { term } from "./query.js";
import { setting } from "./settings.js";
import { counted, duration, number, share, took } from "./words.js";

/** The times that a chart can show, by minutes. */
export const SPANS = { 60: "1 hour", 360: "6 hours", 1440: "24 hours" };
const HOUR_US = 3_600e6;
const FEW = 12; // capabilities at first
const MOST = 300; // capabilities that are drawn at all
const EXAMPLE = `hearthnet call experimental.echo --body '{"input": {"text": "hello"}}'`;
const SORTS = { count: "calls", failed: "failed", p95_ms: "p95", last_us: "last call" };

/** Returns the tiles. */
export function tilesOf({ now, series }) {
  const points = series?.points ?? [];
  const { totals, in_flight: flights } = now;
  const steps = everyStep(series);
  const minutes = (series?.step_s ?? 60) / 60;
  const last = steps.slice(-1 - Math.max(1, Math.round(5 / minutes)), -1); // the present step is not over
  const rate = last.length ? last.reduce((sum, { count }) => sum + count, 0) / (last.length * minutes) : null;
  const oldest = flights.reduce((most, { age_ms: age }) => Math.max(most, age), 0);
  const slow = totals.p95_ms === null || totals.p95_ms === undefined;
  const ofHour = points.filter(({ ts_us: us }) => us >= now.now_us - HOUR_US);
  const most = ofHour.reduce((top, { max_ms: ms }) => Math.max(top, ms ?? 0), 0);
  return [
    tile(
      "calls a minute",
      rate === null ? "–" : number(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)),
      `over ${counted(Math.max(5, minutes), "minute")}`,
      steps.map(({ count }) => count),
    ),
    tile(
      "failed, last hour",
      share(totals.failed, totals.count),
      `${number(totals.failed ?? 0)} of ${counted(totals.count ?? 0, "call")}`,
      steps.map(({ failed }) => failed),
      totals.failed ? "failing" : "",
    ),
    slow
      ? tile("slowest, last hour", ofHour.length ? took(most) : "–", "too few calls for a p95", [])
      : tile(
          "p95, last hour",
          took(totals.p95_ms),
          `p50 ${took(totals.p50_ms)}`,
          steps.map(({ p95_ms: ms }) => ms ?? null),
        ),
    tile("in flight", number(flights.length), flights.length ? `oldest ${took(oldest)}` : "none is open", []),
  ];
}

function tile(label, value, note, values, kind = "") {
  const line = el("div.spark");
  if (values.length > 1) spark(line, values, { label, height: 28 });
  return el(
    `div.tile${kind ? `.${kind}` : ""}`,
    {},
    el("div.k", {}, label),
    el("div.v", {}, value, " ", el("small", {}, note)),
    line,
  );
}

// The node lists only the steps with calls.
function everyStep(series) {
  if (!series) return [];
  const { from_us: from, to_us: until, step_s: step, points } = series;
  const known = new Map(points.map((point) => [Math.floor((point.ts_us - from) / (step * 1e6)), point]));
  const length = Math.min(1_500, Math.max(0, Math.ceil((until - from) / (step * 1e6))));
  return Array.from({ length }, (_, at) => known.get(at) ?? { count: 0, failed: 0 });
}

/** Returns the chart of calls over time. */
export function chartOf(series, state, say) {
  const select = el(
    "select",
    { "aria-label": "Time shown", change: (event) => change({ minutes: event.target.value }, true) },
    Object.entries(SPANS).map(([minutes, name]) =>
      el("option", { value: minutes, selected: Number(minutes) === state.minutes }, name),
    ),
  );
  const head = el(
    "h2",
    {},
    series.step_s === 60 ? "Calls a minute " : `Calls per ${duration(series.step_s * 1000)} `,
    el("span", {}, "failed in red"),
    el("span.grow"),
    select,
  );
  if (!series.points.length && !series.runs.length) return [head, nothingYet(say, "call", "Make one: ", EXAMPLE)];
  const box = el("div.chart-host");
  requestAnimationFrame(() =>
    bars(box, {
      points: series.points,
      runs: series.runs,
      gaps: series.gaps,
      fromUs: series.from_us,
      toUs: series.to_us,
      stepS: series.step_s,
      ringFromUs: series.ring_from_us ?? null,
      zone: setting("zone") === "UTC" ? "UTC" : undefined,
    }),
  );
  return [head, box, series.points.length ? null : nothingYet(say, "call", "Make one: ", EXAMPLE)];
}

/** Returns the table of capabilities; `again` draws it anew. */
export function capabilityTable(state, again) {
  const all = [...(state.capabilities ?? [])].sort((a, b) => (b[state.sort] ?? -1) - (a[state.sort] ?? -1));
  const shown = all.slice(0, state.isAll ? MOST : FEW);
  const sort = el(
    "select",
    {
      "aria-label": "Order",
      change: (event) => {
        state.sort = event.target.value;
        again();
      },
    },
    Object.entries(SORTS).map(([key, text]) =>
      el("option", { value: key, selected: key === state.sort }, `by ${text}`),
    ),
  );
  const top = shown.reduce((most, { p99_ms: p99, max_ms: max }) => Math.max(most, p99 ?? max ?? 0), 0);
  const head = el(
    "h2",
    {},
    "Capabilities ",
    el("span", {}, "all in the store · bar: p50 to p95, tick: p99"),
    el("span.grow"),
    all.length > 1 ? sort : null,
  );
  if (!all.length) return [head, el("p.soft", {}, "None was called yet.")];
  const more =
    all.length > shown.length &&
    button(
      state.isAll ? `${number(all.length - shown.length)} more: search for cap:…` : `All ${number(all.length)}`,
      () => {
        state.isAll = true;
        again();
      },
      { class: "small", disabled: state.isAll },
    );
  const rows = shown.map((one) => {
    const latency = el("td.latency");
    range(latency, { p50: one.p50_ms, p95: one.p95_ms, p99: one.p99_ms, max: top });
    return el(
      "tr",
      {},
      el(
        "td.mono.name",
        {},
        el("a", { href: to("traces", { q: term("cap", one.capability) }), title: one.capability }, one.capability),
      ),
      el("td.num", {}, number(one.count)),
      el(one.failed ? "td.num.t-bad" : "td.num.soft", {}, share(one.failed, one.count)),
      latency,
      el("td.num", {}, one.p95_ms === null ? el("span.soft", {}, `max ${took(one.max_ms)}`) : took(one.p95_ms)),
    );
  });
  return [
    head,
    table(["capability", ["calls", "num"], ["failed", "num"], "latency", ["p95", "num"]], rows, "Capabilities"),
    more,
  ];
}
