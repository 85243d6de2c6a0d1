// What happened, over time: traces as bars in lanes, those in flight without an end, log records as signs below.

import { clock, counted, duration, finite, kindOfLevel, kindOfStatus, number, printable, timeTicks } from "./format.js";
import { axis, drawing, fitted, legend, part, shape, sign, titled } from "./svg.js";

const LANES = 14;
const LANE_PX = 12;
const MAX_DRAWN = 2_000; // the newest; the tables have all
const EDGE_PX = 6;
const SIGNS = ["log", "warn", "bad"];

/**
 * Draws a timeline into `host` and returns the element.
 *
 * An entry is `{ts_us, kind, status, name, text, duration_ms}` of kind `trace`, `log` or `gap`; others are passed over.
 * One in flight is `{capability, age_ms, span, is_alive}`, with `started_us` or else as old at `toUs`. It has no end
 * after its last sign of life, unless its run lives. Starts and ends of runs are lines.
 */
export function timeline(host, { entries = [], inFlight = [], fromUs, toUs, runs = [], zone }) {
  return fitted(host, "draw-timeline", (outer, width) => {
    const isWithin = (entry) => entry.ts_us <= toUs && timelineEnd(entry) >= fromUs;
    const known = entries.filter((entry) => ["trace", "log", "gap"].includes(entry.kind) && isWithin(entry));
    const shown = known.slice(-MAX_DRAWN);
    const scale = (width - 2 * EDGE_PX) / Math.max(1, toUs - fromUs);
    const x = (us) => EDGE_PX + (Math.min(Math.max(us, fromUs), toUs) - fromUs) * scale;
    const flights = timelineLanes(inFlight.map((one) => flightBar(one, fromUs, toUs)), x);
    const traces = timelineLanes(shown.filter((entry) => entry.kind === "trace").map(traceBar), x);
    const top = 16;
    const middle = top + flights.count * LANE_PX + (flights.count ? 6 : 0);
    const records = middle + traces.count * LANE_PX + 10;
    const svg = drawing(outer, width, records + 34, timelineWords(known, inFlight, fromUs, toUs, zone));
    axis(svg, timeTicks(fromUs, toUs, width / 90, zone), x, { y1: top - 2, y2: records + 14, class: "grid" }, width);
    for (const run of runs) timelineRun(svg, run, x, fromUs, toUs, records + 14);
    for (const bar of flights.bars) timelineBar(svg, bar, top);
    for (const bar of traces.bars) timelineBar(svg, bar, middle);
    const signs = shown.filter((entry) => entry.kind !== "trace").map((entry) => ({ entry, kind: signOf(entry) }));
    signs.sort((a, b) => SIGNS.indexOf(a.kind) - SIGNS.indexOf(b.kind)); // the worst above the others
    for (const { entry, kind } of signs) sign(svg, kind, x(entry.ts_us), records + 4, signWords(entry));
    const kinds = [["ok", "ended well"], ["bad", "failed"]];
    const isOver = inFlight.some((one) => !one.is_alive);
    if (inFlight.length) kinds.push(["open", isOver ? "in flight, end unknown" : "in flight"]);
    const line = legend(outer, kinds);
    part(line, "span", "", "● info ▲ warning ◆ error or loss");
    const count = `newest ${number(shown.length)} of ${number(known.length)} entries`;
    if (shown.length < known.length) part(line, "span", "", count);
  });
}

function timelineEnd(entry) {
  return entry.ts_us + finite(entry.duration_ms) * 1e3;
}

function traceBar(entry) {
  const title = `${printable(entry.name, 200)}: ${printable(entry.status, 40)}, ${duration(finite(entry.duration_ms))}`;
  return { from: entry.ts_us, to: timelineEnd(entry), kind: kindOfStatus(entry.status), title };
}

function flightBar(one, fromUs, toUs) {
  const age = finite(one.age_ms);
  const from = one.started_us ?? toUs - age * 1e3;
  const end = one.is_alive ? "in flight" : "end unknown";
  const title = `${flightWords(one)}, ${end}`;
  return { from: Math.max(from, fromUs), to: one.is_alive ? toUs : from + age * 1e3, kind: "open", title };
}

/** The bars each in a lane, so that none hides another while there are lanes; with how many lanes are in use. */
function timelineLanes(bars, x) {
  const free = [];
  for (const bar of bars) {
    bar.left = x(bar.from);
    bar.width = Math.max(2, x(bar.to) - bar.left);
    let lane = free.findIndex((end) => end <= bar.left);
    if (lane < 0) lane = free.length < LANES ? free.length : free.indexOf(Math.min(...free));
    free[lane] = bar.left + bar.width + 1;
    bar.lane = lane;
  }
  return { bars, count: free.length };
}

function timelineBar(svg, bar, top) {
  const y = top + bar.lane * LANE_PX;
  const box = { x: bar.left, y, width: bar.width, height: LANE_PX - 2, rx: Math.min(2, bar.width / 3) };
  titled(svg, "rect", { ...box, class: `bar ${bar.kind}` }, bar.title);
}

function signOf(entry) {
  return entry.kind === "gap" ? "bad" : kindOfLevel(entry.status);
}

function signWords(entry) {
  if (entry.kind === "gap") return `lost: ${printable(entry.text)}`;
  return `${printable(entry.status, 20)} ${printable(entry.name, 80)}: ${printable(entry.text)}`;
}

function timelineRun(svg, run, x, fromUs, toUs, bottom) {
  const whose = `${printable(run.program ?? "", 60)} ${printable(run.version ?? "", 20)}`.trim();
  for (const [us, word] of [[run.started_us, "start"], [run.ended_us, "end"]]) {
    if (!Number.isFinite(us) || us < fromUs || us > toUs) continue;
    const line = titled(svg, "line", { x1: x(us), x2: x(us), y1: 12, y2: bottom, class: "run" }, `${word} of ${whose}`);
    line.dataset.run = word;
  }
}

function flightWords(one) {
  const span = printable(one.span ?? "no span", 80);
  return `${printable(one.capability, 80)} in ${span}, at least ${duration(finite(one.age_ms))}`;
}

function timelineWords(entries, inFlight, fromUs, toUs, zone) {
  const traces = entries.filter((entry) => entry.kind === "trace");
  const failed = traces.filter((entry) => kindOfStatus(entry.status) === "bad").length;
  const loud = entries.filter((entry) => entry.kind === "log" && kindOfLevel(entry.status) !== "log").length;
  const lost = entries.filter((entry) => entry.kind === "gap").length;
  const words = [`${counted(traces.length, "trace")}, ${number(failed)} failed`];
  words.push(counted(loud, "warning or error", "warnings or errors"));
  if (lost) words.push(counted(lost, "gap"));
  const flying = inFlight.slice(0, 5).map(flightWords).join("; ");
  if (flying) words.push(`${number(inFlight.length)} in flight: ${flying}`);
  return `From ${clock(fromUs, zone)} to ${clock(toUs, zone)}: ${words.join("; ")}`;
}
