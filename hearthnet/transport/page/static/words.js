// How values are said: times in the chosen zone, results with a glyph, text that can be copied.

import { nowUs } from "./api.js";
import { button, el } from "./dom.js";
import { counted, duration, number } from "./draw/format.js";
import { setting } from "./settings.js";

export { bytes, counted, duration, number } from "./draw/format.js";

const MAX_CELL = 160; // characters: to lay out more than fits costs time
export const MAX_HINT = 400;
const MAX_DAYS = 2_000;
const PLAIN = ["ok", "cancelled", "interrupted"];
const formatters = new Map();

function formatter(zone, options) {
  const key = `${zone} ${Object.keys(options)}`;
  if (!formatters.has(key)) {
    const timeZone = zone === "UTC" ? "UTC" : undefined;
    formatters.set(key, new Intl.DateTimeFormat("en-GB", { hourCycle: "h23", timeZone, ...options }));
  }
  return formatters.get(key);
}

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DAY = { day: "numeric", month: "short" };
const YEAR = { ...DAY, year: "numeric" };

/** Returns a time of day, after its date unless that is today. */
export function clock(us, { millis = false, zone = setting("zone") } = {}) {
  const date = new Date(us / 1000);
  if (Number.isNaN(date.getTime())) return "no time";
  const day = dayOf(date, zone);
  const today = dayOf(new Date(nowUs() / 1000), zone);
  const brief = day.slice(-4) === today.slice(-4) ? formatter(zone, DAY).format(date) : day;
  const before = day === today ? "" : `${brief} `;
  const time = formatter(zone, CLOCK).format(date);
  return `${before}${time}${millis ? `.${String(date.getUTCMilliseconds()).padStart(3, "0")}` : ""}`;
}

/** Whether a time is of the node's today, in the chosen zone. */
export function isToday(us) {
  return dayOf(new Date(us / 1000), setting("zone")) === dayOf(new Date(nowUs() / 1000), setting("zone"));
}

const days = new Map(); // by minute: no zone begins its day within one

function dayOf(date, zone) {
  if (Number.isNaN(date.getTime())) return "";
  const key = `${zone} ${Math.floor(date.getTime() / 60_000)}`;
  if (!days.has(key)) {
    if (days.size > MAX_DAYS) days.clear();
    days.set(key, formatter(zone, YEAR).format(date));
  }
  return days.get(key);
}

/** Returns a time as `<time>`: the other zone on hover. */
export function when(us, options = {}) {
  if (us === null || us === undefined) return el("span.soft", {}, "–");
  return el("time", { datetime: iso(us) }, clock(us, options));
}

// Made when it is wanted: a list that scrolls makes thousands of times.
document.addEventListener("pointerover", ({ target }) => {
  if (target.tagName !== "TIME" || target.title) return;
  const us = Date.parse(target.dateTime) * 1000;
  target.title = `${iso(us)} UTC\n${withOffset(us)} here`;
});

/** Returns ISO 8601 in UTC with milliseconds. */
export function iso(us) {
  const date = new Date(us / 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

function withOffset(us) {
  const date = new Date(us / 1000);
  const minutes = -date.getTimezoneOffset();
  const shifted = new Date(date.getTime() + minutes * 60_000).toISOString().slice(0, -1);
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return `${shifted}${minutes < 0 ? "-" : "+"}${String(hours).padStart(2, "0")}:${String(rest).padStart(2, "0")}`;
}

/** Returns how long ago something was, in one unit. */
export function ago(us) {
  const ms = Math.max(0, (nowUs() - us) / 1000);
  return ms < 1000 ? "just now" : `${span(ms)} ago`;
}

/** Returns a long time in one unit: "3 minutes". */
export function span(ms) {
  const steps = [
    ["day", 86_400_000],
    ["hour", 3_600_000],
    ["minute", 60_000],
    ["second", 1_000],
  ];
  const [unit, size] = steps.find(([, least]) => ms >= 2 * least) ?? steps.at(-1);
  const count = Math.max(1, Math.floor(ms / size));
  return counted(count, unit);
}

/** Returns a share of a whole as per cent, or "0". */
export function share(part, whole) {
  if (!part || !whole) return "0";
  const percent = (100 * part) / whole;
  return percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

/** Returns milliseconds as the CLI prints them, or a dash. */
export function took(ms) {
  return ms === null || ms === undefined ? "–" : duration(ms);
}

/** Which class a result is shown with: red for failures alone. */
export function resultClass(result) {
  if (result === "ok") return "ok";
  return PLAIN.includes(result) ? "warn" : "bad";
}

/** Returns a result or status with its glyph: colour is never the only sign. */
export function outcome(result, kind = resultClass(result)) {
  const glyph = { ok: "✓", warn: "!", bad: "✕" }[kind] ?? "·";
  return el(
    `span.outcome.t-${kind}`,
    {},
    el("span.glyph", { "aria-hidden": "true" }, glyph),
    el("span.word", {}, result),
  );
}

/** The class of a log level. */
export function levelClass(level) {
  return { warning: "t-warn", error: "t-bad", critical: "t-bad" }[level] ?? "soft";
}

/** Returns a text cut to what a cell could show; the opened row has the whole. */
export function short(text, most = MAX_CELL) {
  return (text ?? "").slice(0, most);
}

/** Returns a value of a field as text. */
export function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Returns a list of fields as a table of names and values. */
export function fields(record, label) {
  const names = Object.keys(record ?? {});
  if (!names.length) return null;
  return el(
    "dl.fields",
    { "aria-label": label },
    names.map((name) => el("div", {}, el("dt", {}, name), el("dd", {}, valueText(record[name])))),
  );
}

/** Copies text; says honestly where that fails. */
export async function copy(text, say) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else if (!copyBySelection(text)) throw new Error("not allowed");
    say(`copied: ${text.length > 80 ? `${text.slice(0, 80)}…` : text}`);
  } catch {
    say("this browser does not let the page copy: select the text and copy it by hand");
  }
}

// Without TLS and away from this machine browsers offer no clipboard.
function copyBySelection(text) {
  const area = el("textarea.offscreen", { "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  return isDone;
}

/** Returns a command with a button that copies it. */
export function command(text, say) {
  return el(
    "span.command",
    {},
    el("code", {}, text),
    button("Copy", () => copy(text, say), { class: "small", "aria-label": `Copy: ${text}` }),
  );
}

/** Offers text as a file. */
export function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
