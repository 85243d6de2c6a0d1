// Now: a sentence that says whether all is well, and the figures against which it can be checked.

import { get, nowUs, setNow } from "./api.js";
import { change, to } from "./address.js";
import { bars, range, share as shares, spark } from "./drawing.js";
import { button, el, fill, part, table } from "./dom.js";
import { nothingYet } from "./feed.js";
import { term } from "./query.js";
import { bytes, command, copy, counted, duration, number, outcome, share, span, took, when } from "./words.js";

const REFRESH_MS = 15_000; // the figures that the stream does not carry; only after new traces, and while it is shown
const SPANS = { 60: "1 hour", 360: "6 hours", 1440: "24 hours" };
const FEW = 12; // capabilities at first
const MOST = 300; // capabilities that are drawn at all
const MAX_FLIGHTS = 20;
const MAX_DETAIL = 320; // characters of the verdict
const MAX_SAMPLES = 720;
const KINDS = { ok: "t-ok", warn: "t-warn", fail: "t-bad", unknown: "soft" };
const EXAMPLE = `hearthnet call experimental.echo --body '{"input": {"text": "hello"}}'`;

/** Returns the view; `onNode(now)` gets each state of the node. */
export function now({ say, onNode }) {
  const state = { now: null, series: null, capabilities: null, minutes: 60, isAll: false, sort: "count" };
  const panels = panelsOf(state, say);
  let isStale = true;
  let timer = 0;

  const take = (data) => {
    state.now = { ...data, vitals: joined(state.now?.vitals ?? [], data.vitals ?? []) };
    setNow(data.now_us);
    onNode(state.now);
    panels.now();
  };
  const figures = async () => {
    isStale = false;
    const [series, answer] = await Promise.all([get("series", { minutes: state.minutes }), get("capabilities")]);
    Object.assign(state, { series, capabilities: answer.capabilities });
    panels.figures();
  };
  const load = async () => {
    take(await get("now"));
    await figures();
  };
  const later = () => {
    if (timer || !isStale) return;
    timer = setTimeout(() => {
      timer = 0;
      if (panels.root.isConnected && !document.hidden) load().catch(panels.fail);
    }, REFRESH_MS);
  };
  return {
    root: panels.root,
    title: "Now",
    async show({ minutes = "60" }) {
      state.minutes = SPANS[minutes] ? Number(minutes) : 60;
      await load().catch(panels.fail);
    },
    shown() {},
    hidden() {},
    redraw: () => panels.all(),
    reset: () => load().catch(panels.fail),
    event(name, data) {
      if (name === "now") take(data);
      if (name !== "traces") return;
      isStale = true;
      later();
    },
    key: () => false,
    search: (q) => to("traces", { q }),
  };
}

function panelsOf(state, say) {
  const host = (name, label) => el(`section.panel.${name}`, { "aria-label": label });
  const [verdict, tiles, chart] = [host("verdict", "Verdict"), el("section.tiles", { "aria-label": "Figures" }), host("chart", "Calls")];
  const [flights, capabilities] = [host("flights", "In flight"), host("capabilities", "Capabilities")];
  const [vitals, store] = [host("vitals", "Process"), host("store", "Store")];
  const problem = el("p.t-bad", { role: "alert", hidden: true });
  const root = el("div.now", {}, problem, verdict, tiles, chart, el("div.two", {}, flights, capabilities),
    el("div.two", {}, vitals, store));
  const drawVerdict = part(verdict, (data) => verdictLines(data, say));
  const drawTiles = part(tiles, tilesOf);
  const drawChart = part(chart, (series) => chartOf(series, state, say));
  const drawFlights = part(flights, flightTable);
  const drawCapabilities = part(capabilities, () => capabilityTable(state, () => drawCapabilities(picked(state), true)));
  const drawVitals = part(vitals, vitalCharts);
  const drawStore = part(store, storeLines);
  const ofNow = (force) => {
    if (!state.now) return;
    problem.hidden = true;
    drawVerdict(state.now.verdict, force);
    drawFlights(state.now.in_flight, force);
    drawVitals(state.now.vitals, force);
    drawStore(state.now.store, force);
    drawTiles({ now: state.now, series: state.series }, force);
  };
  const ofFigures = (force) => {
    if (!state.series) return;
    drawChart(state.series, force);
    drawCapabilities(picked(state), force);
    drawTiles({ now: state.now, series: state.series }, force);
  };
  return {
    root,
    now: () => ofNow(false),
    figures: () => ofFigures(false),
    all: () => { ofNow(true); ofFigures(true); },
    fail: (error) => {
      if (error.name === "AbortError" || error.status === 401) return;
      problem.hidden = false;
      fill(problem, error.message, error.hint ? ` (${error.hint})` : "");
    },
  };
}

// The stream has the newest sample alone.
function joined(before, vitals) {
  const from = vitals[0]?.ts_us ?? Infinity;
  return [...before.filter(({ ts_us: us }) => us < from), ...vitals].slice(-MAX_SAMPLES);
}

function picked({ capabilities, isAll, sort }) {
  return { capabilities, isAll, sort };
}

function verdictLines(verdict, say) {
  const kind = KINDS[verdict.status] ?? "soft";
  const failed = verdict.capability && `${term("cap", verdict.capability)} result:failed`;
  const why = verdict.check ? el("a.button", { href: to("doctor", { check: verdict.check }) }, "Why?") : null;
  const calls = failed ? el("a.button", { href: to("traces", { q: failed }) }, "Failed calls") : null;
  const since = verdict.since_us
    ? el("span.since", {}, "since ", when(verdict.since_us), ` · ${span((nowUs() - verdict.since_us) / 1000)}`) : null;
  return [
    el(`div.edge.${kind}`, { "aria-hidden": "true" }),
    el("div", {}, el("h1", {}, verdict.sentence, " ", since), verdict.detail ? el("p", { title: verdict.detail }, cut(verdict.detail)) : null,
      verdict.fix ? el("p.fix", {}, el("code", {}, verdict.fix)) : null),
    el("div.do", {}, why, calls, verdict.fix ? button("Copy fix", () => copy(verdict.fix, say)) : null),
  ];
}

// The whole of it is a click away, in Doctor.
function cut(text) {
  return text.length > MAX_DETAIL ? `${text.slice(0, MAX_DETAIL)}…` : text;
}

function tilesOf({ now, series }) {
  const points = series?.points ?? [];
  const { totals, in_flight: flights } = now;
  const perMinute = byMinute(series);
  const last = perMinute.slice(-6, -1); // the present minute is not over
  const rate = last.length ? last.reduce((sum, { count }) => sum + count, 0) / last.length : null;
  const oldest = flights.reduce((most, { age_ms: age }) => Math.max(most, age), 0);
  const slow = totals.p95_ms === null || totals.p95_ms === undefined;
  const most = points.reduce((top, { max_ms: ms }) => Math.max(top, ms ?? 0), 0);
  return [
    tile("calls a minute", rate === null ? "–" : number(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)),
      "over 5 minutes", perMinute.map(({ count }) => count)),
    tile("failed, last hour", share(totals.failed, totals.count), `${number(totals.failed ?? 0)} of ${counted(totals.count ?? 0, "call")}`,
      perMinute.map(({ failed }) => failed), totals.failed ? "failing" : ""),
    slow ? tile("slowest, last hour", points.length ? took(most) : "–", "too few calls for a p95", [])
      : tile("p95, last hour", took(totals.p95_ms), `p50 ${took(totals.p50_ms)}`, points.map(({ p95_ms: ms, max_ms: max }) => ms ?? max ?? 0)),
    tile("in flight", number(flights.length), flights.length ? `oldest ${took(oldest)}` : "none is open", []),
  ];
}

function tile(label, value, note, values, kind = "") {
  const line = el("div.spark");
  if (values.length > 1) spark(line, values, { label, height: 28 });
  return el(`div.tile${kind ? `.${kind}` : ""}`, {}, el("div.k", {}, label), el("div.v", {}, value, " ", el("small", {}, note)), line);
}

// The node lists only the steps with calls.
function byMinute(series) {
  if (!series) return [];
  const { from_us: from, to_us: until, step_s: step, points } = series;
  const known = new Map(points.map((point) => [Math.floor((point.ts_us - from) / (step * 1e6)), point]));
  const length = Math.min(1_500, Math.max(0, Math.ceil((until - from) / (step * 1e6))));
  return Array.from({ length }, (_, at) => known.get(at) ?? { count: 0, failed: 0 });
}

function chartOf(series, state, say) {
  const select = el("select", { "aria-label": "Time shown", change: (event) => change({ minutes: event.target.value }, true) },
    Object.entries(SPANS).map(([minutes, name]) => el("option", { value: minutes, selected: Number(minutes) === state.minutes }, name)));
  const head = el("h2", {}, series.step_s === 60 ? "Calls a minute " : `Calls per ${duration(series.step_s * 1000)} `,
    el("span", {}, "failed in red"), el("span.grow"), select);
  if (!series.points.length && !series.runs.length) return [head, nothingYet(say, "call", "Make one: ", EXAMPLE)];
  const box = el("div.chart-host");
  requestAnimationFrame(() => bars(box, {
    points: series.points, runs: series.runs, gaps: series.gaps, fromUs: series.from_us, toUs: series.to_us,
    stepS: series.step_s, ringFromUs: series.ring_from_us ?? null,
  }));
  return [head, box, series.points.length ? null : nothingYet(say, "call", "Make one: ", EXAMPLE)];
}

function flightTable(flights) {
  const living = flights.filter(({ is_alive: isAlive }) => isAlive);
  const dead = flights.filter(({ is_alive: isAlive }) => !isAlive);
  const note = flights.length ? `${number(living.length)} now${dead.length ? `, ${number(dead.length)} when its run died` : ""}, oldest first` : "";
  if (!flights.length) return [el("h2", {}, "In flight"), el("p.soft", {}, "No call is open.")];
  const sorted = [...flights].sort((a, b) => b.age_ms - a.age_ms);
  const rows = sorted.slice(0, MAX_FLIGHTS).map((flight) => el(flight.is_alive ? "tr" : "tr.dead", {},
    el("td.mono", {}, el("a", { href: to("traces", { q: term("cap", flight.capability) }), title: flight.trace_id }, flight.capability)),
    el("td.num", {}, flight.is_alive ? took(flight.age_ms) : `≥ ${took(flight.age_ms)}`),
    el("td.mono", {}, flight.span ?? "–"),
    el("td.soft", {}, flight.is_alive ? flight.program ?? "" : `${flight.program ?? "its program"} died`)));
  return [el("h2", {}, "In flight ", el("span", {}, note)), table(["capability", ["age", "num"], "innermost open span", "program"], rows, "In flight"),
    sorted.length > rows.length ? el("p.soft", {}, `and ${number(sorted.length - rows.length)} younger`) : null];
}

const SORTS = { count: "calls", failed: "failed", p95_ms: "p95", last_us: "last call" };

function capabilityTable(state, again) {
  const all = [...(state.capabilities ?? [])].sort((a, b) => (b[state.sort] ?? -1) - (a[state.sort] ?? -1));
  const shown = all.slice(0, state.isAll ? MOST : FEW);
  const sort = el("select", { "aria-label": "Order", change: (event) => { state.sort = event.target.value; again(); } },
    Object.entries(SORTS).map(([key, text]) => el("option", { value: key, selected: key === state.sort }, `by ${text}`)));
  const top = shown.reduce((most, { p99_ms: p99, max_ms: max }) => Math.max(most, p99 ?? max ?? 0), 0);
  const head = el("h2", {}, "Capabilities ", el("span", {}, "all in the store · bar: p50 to p95, tick: p99"), el("span.grow"), all.length > 1 ? sort : null);
  if (!all.length) return [head, el("p.soft", {}, "None was called yet.")];
  const more = all.length > shown.length && button(state.isAll ? `${number(all.length - shown.length)} more: search for cap:…` : `All ${number(all.length)}`,
    () => { state.isAll = true; again(); }, { class: "small", disabled: state.isAll });
  const rows = shown.map((one) => {
    const latency = el("td.latency");
    range(latency, { p50: one.p50_ms, p95: one.p95_ms, p99: one.p99_ms, max: top });
    return el("tr", {},
      el("td.mono.name", {}, el("a", { href: to("traces", { q: term("cap", one.capability) }), title: one.capability }, one.capability)),
      el("td.num", {}, number(one.count)),
      el(one.failed ? "td.num.t-bad" : "td.num.soft", {}, share(one.failed, one.count)),
      latency, el("td.num", {}, one.p95_ms === null ? el("span.soft", {}, `max ${took(one.max_ms)}`) : took(one.p95_ms)));
  });
  return [head, table(["capability", ["calls", "num"], ["failed", "num"], "latency", ["p95", "num"]], rows, "Capabilities"), more];
}

const VITALS = [
  ["memory", "rss_bytes", bytes], ["memory left", "memory_left_bytes", bytes], ["loop lag", "loop_lag_s", (s) => duration(s * 1000)],
  ["open files", "open_files", number], ["disk free", "disk_free_bytes", bytes], ["load", "load", number],
];

function vitalCharts(vitals) {
  const head = el("h2", {}, "This process");
  if (!vitals?.length) return [head, el("p.soft", {}, "No sample yet; there is one every few seconds while a node runs.")];
  const charts = VITALS.map(([label, key, text]) => {
    const values = vitals.map((sample) => sample[key]).filter((value) => value !== null && value !== undefined);
    if (!values.length) return null;
    const line = el("div.spark");
    if (values.length > 1) spark(line, values, { label, words: text });
    return el("div.vital", {}, el("span.soft", {}, label), " ", el("b", {}, text(values.at(-1))), line);
  });
  return [head, el("div.vitals-grid", {}, charts)];
}

const PARTS = { wal: "WAL", box: "black boxes" };

function storeLines(store) {
  const parts = Object.entries(store.disk).map(([name, { bytes: size, bound }]) => ({ label: PARTS[name] ?? name, bytes: size, bound }));
  const used = parts.reduce((sum, { bytes: size }) => sum + size, 0);
  const lost = store.lost.reduce((sum, { count }) => sum + count, 0);
  const bar = el("div.share-host");
  shares(bar, parts.map(({ label, bytes: size }) => ({ label, value: size })), { total: store.max_disk_bytes ?? 0 });
  const whole = store.max_disk_bytes ? `${bytes(used)} of ${bytes(store.max_disk_bytes)}` : bytes(used);
  return [
    el("h2", {}, "Store ", el("span", {}, `${whole} · ${lost ? "" : "nothing lost · "}${number(store.commits_per_minute ?? 0)} commits a minute`)),
    bar,
    el("dl.fields", {}, parts.map(({ label, bytes: size, bound }) => el("div", {}, el("dt", {}, label),
      el("dd", {}, bound ? `${bytes(size)} of ${bytes(bound)}` : bytes(size)))),
    Object.entries(store.rings).map(([name, ring]) => el("div", {}, el("dt", {}, name),
      el("dd", {}, `${number(ring.ordinary + ring.notable)} of ${number(ring.size)}, ${number(ring.notable)} of them notable`,
        ring.oldest_us ? [" · oldest ", when(ring.oldest_us)] : null)))),
    store.lost.length ? el("ul.lost", {}, store.lost.map(({ reason, kind, count, last_us: last }) => el("li", {},
      outcome(`${counted(count, `${kind} record`)} lost: ${reason}`, "bad"), last ? [el("span.soft", {}, " · last "), when(last)] : null))) : null,
  ];
}
