// Now: a sentence that says whether all is well, and the figures against which it can be checked.

import { get, setNow } from "./api.js";
import { to } from "./address.js";
import { el, fill, part } from "./dom.js";
import { capabilityTable, chartOf, SPANS, tilesOf } from "./figures.js";
import { flightTable, storeLines, verdictLines, vitalCharts } from "./health.js";

const REFRESH_MS = 15_000; // the figures that the stream does not carry; only after new traces, and while it is shown
const MAX_SAMPLES = 720;
const LONGEST_BEHIND_US = 60e6;

/** Returns the view; `onNode(now)` gets each state of the node. */
export function now({ say, onNode }) {
  const state = { now: null, series: null, capabilities: null, minutes: 60, isAll: false, sort: "count" };
  const panels = panelsOf(state, say);
  let isStale = true;
  let timer = 0;

  const take = (data) => {
    const before = state.now?.node.run_id === data.node.run_id ? (state.now?.vitals ?? []) : [];
    state.now = { ...data, vitals: joined(before, data.vitals ?? []) };
    setNow(data.now_us);
    onNode(state.now);
    panels.now();
  };
  const figures = async () => {
    isStale = false;
    const { minutes } = state;
    const [series, answer] = await Promise.all([get("series", { minutes }), get("capabilities")]);
    if (minutes !== state.minutes) return;
    Object.assign(state, { series, capabilities: answer.capabilities });
    panels.figures();
  };
  const load = async () => {
    take(await get("now"));
    await figures();
  };
  // Without new traces the rate must still fall.
  const isBehind = () => state.series !== null && state.now.now_us - state.series.to_us > LONGEST_BEHIND_US;
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
      if (name !== "traces" && !(name === "now" && isBehind())) return;
      isStale = true;
      later();
    },
    key: () => false,
    search: (q) => to("traces", { q }),
  };
}

function panelsOf(state, say) {
  const host = (name, label) => el(`section.panel.${name}`, { "aria-label": label }, el("p.soft", {}, "loading…"));
  const [verdict, tiles, chart] = [
    host("verdict", "Verdict"),
    el("section.tiles", { "aria-label": "Figures" }),
    host("chart", "Calls"),
  ];
  const [flights, capabilities] = [host("flights", "In flight"), host("capabilities", "Capabilities")];
  const [vitals, store] = [host("vitals", "Process"), host("store", "Store")];
  const problem = el("p.t-bad", { role: "alert", hidden: true });
  const root = el(
    "div.now",
    {},
    problem,
    verdict,
    tiles,
    chart,
    el("div.two", {}, flights, capabilities),
    el("div.two", {}, vitals, store),
  );
  const drawVerdict = part(verdict, (data) => verdictLines(data, say));
  const drawTiles = part(tiles, tilesOf);
  const drawChart = part(chart, (series) => chartOf(series, state, say));
  const drawFlights = part(flights, flightTable);
  const drawCapabilities = part(capabilities, () =>
    capabilityTable(state, () => drawCapabilities(picked(state), true)),
  );
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
    all: () => {
      ofNow(true);
      ofFigures(true);
    },
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
