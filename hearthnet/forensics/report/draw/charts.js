// Charts of numbers: calls over time with their failures, small lines, ranges of latency, shares of a whole.

import { axisTop, bytes, clock, counted, duration, finite, LEAST_CALLS, number } from "./format.js";
import { printable, timeTicks } from "./format.js";
import { axis, drawing, fitted, legend, part, shape, sign, titled } from "./svg.js";

const TOP = 18; // above the bars: versions and losses
const BARS_PX = 110;
const FAILED_PX = 26; // failures have a strip and a scale of their own
const LEFT = 38;
const RIGHT = 58;
const WHOLE_PX = BARS_PX + 10 + FAILED_PX;
const MAX_STEPS = 3_000;
const MAX_MARKS = 40;
const STATES = { none: "no data", off: "not running", zero: "no calls" };

/**
 * Draws calls over time into `host` and returns the element.
 *
 * Only steps with calls are in `points`. A step without is one of three: there were no calls; the ring reaches back no
 * further (`ringFromUs`); or no run covers it. The line of p95 has the right scale and only steps of 20 calls and more.
 */
export function bars(host, { points = [], runs = [], gaps = [], fromUs, toUs, stepS = 60, ringFromUs = null, zone }) {
  return fitted(host, "draw-bars", (outer, width) => {
    const chart = chartOf({ points, runs, gaps, fromUs, toUs, stepUs: stepS * 1e6, ringFromUs, zone, width });
    const svg = drawing(outer, width, TOP + WHOLE_PX + 20, chartWords(chart));
    chartAxes(svg, chart);
    for (const range of chart.ranges) chartRange(svg, chart, range);
    for (const point of chart.points) chartPoint(svg, chart, point);
    chartLine(svg, chart);
    chartMarks(svg, chart);
    chartLegend(outer, chart);
  });
}

function chartOf(given) {
  const { fromUs, toUs, stepUs, width, runs } = given;
  const steps = Math.min(MAX_STEPS, Math.max(1, Math.ceil((toUs - fromUs) / stepUs)));
  const points = given.points
    .map((point) => ({ ...point, index: Math.floor((point.ts_us - fromUs) / stepUs) }))
    .filter((point) => point.index >= 0 && point.index < steps && point.count > 0);
  const nodes = runs.filter((run) => run.role === "node");
  const chart = { ...given, steps, points, marked: nodes.length ? nodes : runs, space: width - LEFT - RIGHT };
  chart.top = Math.max(2, axisTop(Math.max(0, ...points.map((point) => point.count))));
  chart.topFailed = Math.max(1, ...points.map((point) => finite(point.failed)));
  chart.slow = points.filter((point) => point.count >= LEAST_CALLS && Number.isFinite(point.p95_ms));
  chart.topMs = axisTop(Math.max(0, ...chart.slow.map((point) => point.p95_ms)));
  chart.ranges = rangesOf(chart);
  return chart;
}

/** Steps without calls, joined where they are of the same kind: `{state, first, end}`. */
function rangesOf({ points, runs, fromUs, stepUs, ringFromUs, steps, toUs }) {
  const busy = new Set(points.map((point) => point.index));
  const endOf = (run) => run.ended_us ?? (run.is_alive ? toUs : (run.last_seen_us ?? run.started_us));
  const ranges = [];
  for (let index = 0; index < steps; index++) {
    if (busy.has(index)) continue;
    const start = fromUs + index * stepUs;
    const isOn = runs.some((run) => run.started_us < start + stepUs && endOf(run) >= start);
    const state = ringFromUs !== null && start + stepUs <= ringFromUs ? "none" : isOn ? "zero" : "off";
    const last = ranges.at(-1);
    if (last?.state === state && last.end === index) last.end = index + 1;
    else ranges.push({ state, first: index, end: index + 1 });
  }
  return ranges;
}

function stepX({ space, steps }, index) {
  return LEFT + (index / steps) * space;
}

function timeX({ fromUs, stepUs, steps, space }, us) {
  return LEFT + ((us - fromUs) / stepUs / steps) * space;
}

function chartAxes(svg, chart) {
  const end = LEFT + chart.space;
  const floor = TOP + BARS_PX;
  for (const share of [0, 0.5, 1]) {
    const y = floor - share * BARS_PX;
    shape(svg, "line", { x1: LEFT, x2: end, y1: y, y2: y, class: share ? "grid" : "base" });
    shape(svg, "text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, number(share * chart.top));
    if (chart.slow.length) shape(svg, "text", { x: end + 6, y: y + 4, class: "p95" }, duration(share * chart.topMs));
  }
  const base = TOP + WHOLE_PX;
  const most = chart.points.some((point) => point.failed > 0) ? number(chart.topFailed) : "0";
  shape(svg, "line", { x1: LEFT, x2: end, y1: base, y2: base, class: "base" });
  shape(svg, "text", { x: LEFT - 6, y: base - FAILED_PX + 12, "text-anchor": "end" }, most);
  shape(svg, "text", { x: end + 6, y: base - FAILED_PX + 12 }, "failed");
  const ticks = timeTicks(chart.fromUs, chart.toUs, chart.space / 80, chart.zone);
  axis(svg, ticks, (us) => timeX(chart, us), { y1: base, y2: base + 4, class: "base" }, chart.width);
}

function chartRange(svg, chart, { state, first, end }) {
  const [left, right] = [stepX(chart, first), stepX(chart, end)];
  const whole = { x: left, y: TOP, width: right - left, height: WHOLE_PX };
  const title = `${STATES[state]}: ${chartTime(chart, first)} to ${chartTime(chart, end)}`;
  const group = shape(svg, "g", { class: `range ${state}` });
  shape(group, "title", {}, title);
  titled(group, "rect", { ...whole, class: "back" }, title);
  if (state === "zero") {
    shape(group, "line", { x1: left, x2: right, y1: TOP + BARS_PX - 1, y2: TOP + BARS_PX - 1, class: "flat" });
    return;
  }
  // Stripes by dashes, not by a pattern: its id would have to be unique in the document.
  const stripes = { x1: left, x2: right, y1: TOP + WHOLE_PX / 2, y2: TOP + WHOLE_PX / 2, "stroke-width": WHOLE_PX };
  if (state === "none") shape(group, "line", { ...stripes, "stroke-dasharray": "1 7", class: "stripes" });
  const middle = { x: (left + right) / 2, y: TOP + BARS_PX / 2, "text-anchor": "middle" };
  if (right - left > 70) shape(group, "text", middle, STATES[state]);
}

function chartTime({ fromUs, stepUs, zone }, index) {
  return clock(fromUs + index * stepUs, zone).slice(11, 19);
}

function chartPoint(svg, chart, point) {
  const left = stepX(chart, point.index);
  const step = chart.space / chart.steps;
  const width = Math.max(1, step - Math.min(2, step / 4));
  const group = shape(svg, "g", { class: "step" });
  shape(group, "title", {}, pointWords(chart, point));
  const floor = TOP + BARS_PX;
  const tall = (point.count / chart.top) * BARS_PX;
  shape(group, "rect", { x: left, y: TOP, width, height: WHOLE_PX, class: "back" });
  shape(group, "rect", { x: left, y: floor - tall, width, height: tall, class: "calls" });
  if (!(point.failed > 0)) return;
  const failed = Math.max(2, (point.failed / chart.topFailed) * FAILED_PX);
  shape(group, "rect", { x: left, y: floor + 10 + FAILED_PX - failed, width, height: failed, class: "bad" });
}

function pointWords(chart, point) {
  const failed = `${number(finite(point.failed))} failed`;
  const words = [`${chartTime(chart, point.index)}: ${counted(point.count, "call")}, ${failed}`];
  if (chart.slow.includes(point)) words.push(`p50 ${duration(finite(point.p50_ms))}, p95 ${duration(point.p95_ms)}`);
  if (Number.isFinite(point.max_ms)) words.push(`slowest ${duration(point.max_ms)}`);
  return words.join(", ");
}

/** The line of p95: only neighbouring steps are joined; one alone is a dot. */
function chartLine(svg, chart) {
  const place = (point) => [stepX(chart, point.index + 0.5), TOP + BARS_PX - (point.p95_ms / chart.topMs) * BARS_PX];
  const slow = [...chart.slow].sort((a, b) => a.index - b.index);
  let path = "";
  slow.forEach((point, number) => {
    const [x, y] = place(point).map((value) => value.toFixed(1));
    const follows = slow[number - 1]?.index === point.index - 1;
    path += `${follows ? "L" : "M"}${x} ${y}`;
    const isAlone = !follows && slow[number + 1]?.index !== point.index + 1;
    if (isAlone) shape(svg, "circle", { cx: x, cy: y, r: 2, class: "p95" });
  });
  if (path) shape(svg, "path", { d: path, class: "p95" });
}

/** Starts of runs with their versions, and losses. */
function chartMarks(svg, chart) {
  const { fromUs, toUs, zone } = chart;
  const starts = chart.marked.filter((run) => run.started_us > fromUs && run.started_us <= toUs);
  let free = 0;
  for (const run of starts.sort((a, b) => a.started_us - b.started_us).slice(-MAX_MARKS)) {
    const x = timeX(chart, run.started_us);
    const label = `start, ${printable(run.version || "unknown version", 20)}`;
    const title = `${label}: ${clock(run.started_us, zone)}`;
    titled(svg, "line", { x1: x, x2: x, y1: 4, y2: TOP + WHOLE_PX, class: "run" }, title);
    const end = x + label.length * 6.2;
    if (x < free || end > chart.width) continue;
    shape(svg, "text", { x: x + 4, y: 12 }, label);
    free = end;
  }
  const gaps = chart.gaps.filter((gap) => gap.ts_us >= fromUs && gap.ts_us <= toUs);
  for (const gap of gaps.slice(-MAX_MARKS)) sign(svg, "warn", timeX(chart, gap.ts_us), TOP + 2, gapWords(gap));
}

function gapWords(gap) {
  return `${counted(finite(gap.count), "record")} lost: ${printable(gap.reason, 60)}`;
}

function chartLegend(outer, chart) {
  const has = (state) => chart.ranges.some((range) => range.state === state);
  const pairs = [["calls", "calls"], ["bad", "failed, own scale"]];
  for (const state of ["none", "off"]) if (has(state)) pairs.push([`back ${state}`, STATES[state]]);
  const line = legend(outer, pairs);
  const areFew = chart.points.length > 0 && chart.points.every((point) => point.count < LEAST_CALLS);
  if (chart.slow.length) part(line, "span", "p95-word", "─ p95, right scale");
  if (areFew) part(line, "span", "", `no p95: under ${LEAST_CALLS} calls a step`);
  if (has("zero")) part(line, "span", "", "▁ no calls");
  if (chart.gaps.length) part(line, "span", "sign-warn", "▲ records lost");
}

function chartWords(chart) {
  const { points, slow, ranges, gaps, fromUs, toUs, zone, stepUs } = chart;
  const sum = (values) => values.reduce((total, value) => total + finite(value), 0);
  const failed = sum(points.map((point) => point.failed));
  const words = [`${counted(sum(points.map((point) => point.count)), "call")}, ${number(failed)} failed`];
  const most = points.reduce((found, point) => (point.count > (found?.count ?? 0) ? point : found), null);
  if (most) words.push(`most at ${chartTime(chart, most.index)}, ${number(most.count)} in ${duration(stepUs / 1e3)}`);
  if (slow.length) words.push(`highest p95 ${duration(Math.max(...slow.map((point) => point.p95_ms)))}`);
  for (const state of ["none", "off"]) {
    const steps = sum(ranges.filter((range) => range.state === state).map((range) => range.end - range.first));
    if (steps) words.push(`${STATES[state]} for ${duration((steps * stepUs) / 1e3)}`);
  }
  if (gaps.length) words.push(gaps.slice(0, 3).map(gapWords).join("; "));
  return `Calls from ${clock(fromUs, zone)} to ${clock(toUs, zone)}: ${words.join("; ")}`;
}

/**
 * Draws values as a small line from 0, and returns the element. Null is a gap. With `times`, each is at its moment,
 * else they are evenly spaced.
 */
export function spark(host, values, { label = "", words = number, height = 36, times = null } = {}) {
  return fitted(host, "draw-spark", (outer, width) => {
    const known = values.filter((value) => Number.isFinite(value));
    const most = Math.max(0, ...known);
    const said = known.length ? `from ${words(known[0])} to ${words(known.at(-1))}, most ${words(most)}` : "no data";
    const svg = drawing(outer, width, height, labelled(label, said));
    shape(svg, "title", {}, said);
    shape(svg, "line", { x1: 0, x2: width, y1: height - 1, y2: height - 1, class: "base" });
    const at = (index) => (times ? times[index] : index);
    const share = (index) => (at(index) - at(0)) / Math.max(1e-9, at(values.length - 1) - at(0));
    const place = (value, index) => [2 + share(index) * (width - 4), height - 2 - (value / (most || 1)) * (height - 6)];
    sparkLine(svg, values, place);
  });
}

function sparkLine(svg, values, place) {
  let path = "";
  values.forEach((value, index) => {
    if (!Number.isFinite(value)) return;
    const [x, y] = place(value, index).map((number) => number.toFixed(1));
    const isJoined = Number.isFinite(values[index - 1]);
    path += `${isJoined ? "L" : "M"}${x} ${y}`;
    const isAlone = !isJoined && !Number.isFinite(values[index + 1]);
    if (isAlone) shape(svg, "circle", { cx: x, cy: y, r: 2, class: "line" });
  });
  if (path) shape(svg, "path", { d: path, class: "line" });
}

function labelled(label, said) {
  return label ? `${label}: ${said}` : said;
}

/** Draws p50 to p95 as a bar and p99 as a tick on a scale from 0 to `max`, and returns the element. */
export function range(host, { p50, p95, p99, max }, { label = "", words = duration } = {}) {
  return fitted(host, "draw-range", (outer, width) => {
    const has = (value) => Number.isFinite(value);
    const named = Object.entries({ p50, p95, p99, max }).filter(([, value]) => has(value));
    const said = named.map(([name, value]) => `${name} ${words(value)}`);
    if (!has(p95)) said.push("too few calls for p95");
    const svg = drawing(outer, width, 14, labelled(label, said.join(", ")));
    shape(svg, "title", {}, said.join(", "));
    const x = (value) => 1 + (Math.min(Math.max(value, 0), max) / (max > 0 ? max : 1)) * (width - 2);
    shape(svg, "line", { x1: 0, x2: width, y1: 7, y2: 7, class: "grid" });
    if (has(p50) && has(p95)) {
      shape(svg, "rect", { x: x(p50), y: 3, width: Math.max(2, x(p95) - x(p50)), height: 8, rx: 2, class: "calls" });
    }
    if (has(p99)) shape(svg, "line", { x1: x(p99), x2: x(p99), y1: 1, y2: 13, class: "p99" });
  });
}

/**
 * Draws parts of a whole as one bar with a line of names below, and returns the element. A part is `{label, value}`;
 * `total` is the whole, by default their sum; the rest stays free.
 */
export function share(host, parts, { total = 0, words = bytes } = {}) {
  return fitted(host, "draw-share", (outer, width) => {
    const sum = parts.reduce((all, one) => all + finite(one.value), 0);
    const whole = Math.max(total, sum, 1e-9);
    const named = parts.map((one) => `${printable(one.label, 80)} ${words(finite(one.value))}`);
    const svg = drawing(outer, width, 18, `${named.join(", ")}${total > 0 ? `, of ${words(total)}` : ""}`);
    shape(svg, "rect", { x: 0, y: 0, width, height: 18, rx: 3, class: "free" });
    let left = 0;
    parts.forEach((one, index) => {
      if (!(one.value > 0)) return;
      const wide = Math.max(2, (one.value / whole) * (width - 2 * parts.length));
      titled(svg, "rect", { x: left, y: 0, width: wide, height: 18, class: `part${index % 5}` }, named[index]);
      left += wide + 1;
    });
    legend(outer, named.map((word, index) => [`part${index % 5}`, word]));
  });
}
