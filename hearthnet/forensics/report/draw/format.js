// Numbers, times and recorded texts in the words of the command line, and round values for axes. Touches no document.

const DAY_US = 86_400e6;
const UNITS_S = [[86_400, "d"], [3_600, "h"], [60, "min"]];
const UNITS_B = [[10e9, 1e9, "GB"], [1e6, 1e6, "MB"], [1e3, 1e3, "kB"]];
const STEPS_US = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500].map((ms) => ms * 1e3),
  ...[1, 2, 5, 10, 15, 30].map((s) => s * 1e6),
  ...[1, 2, 5, 10, 15, 30].map((min) => min * 60e6),
  ...[1, 2, 3, 6, 12].map((h) => h * 3_600e6),
  ...[1, 2, 7, 14, 28].map((days) => days * DAY_US),
];
const GLYPHS = { ok: "", log: "", warn: "▲", bad: "✕", open: "…" };
// Made once: to make one costs more than a hundred numbers.
const SHORT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
const FIXED = [0, 1, 2].map(
  (digits) => new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);
const clocks = new Map();

/** Fewer calls than this have no p95: it would be the slowest one, or the second. */
export const LEAST_CALLS = 20;

/** A number with separators, at most two digits after the point: `1,234`. */
export function number(n) {
  return SHORT.format(n);
}

/** A count with its noun: `1 call`, `2 calls`; `plural` is for nouns that do not just take an s. */
export function counted(n, noun, plural = `${noun}s`) {
  return `${number(n)} ${n === 1 ? noun : plural}`;
}

/** A duration with one unit: `0.43 ms`, `46 ms`, `46.4 s`, `5.4 min`, `6.0 h`, `2.1 d`. */
export function duration(ms) {
  const seconds = ms / 1e3;
  for (const [size, unit] of UNITS_S) {
    if (Math.abs(seconds) >= 2 * size) return `${fixed(seconds / size, 1)} ${unit}`;
  }
  if (Math.abs(seconds) >= 1) return `${fixed(seconds, 1)} s`;
  return ms === 0 ? "0 ms" : `${fixed(ms, Math.abs(ms) < 10 ? 2 : 0)} ms`;
}

/** Bytes with one unit: `312 B`, `24.6 kB`, `1,234.5 MB`, `78.6 GB`. */
export function bytes(n) {
  for (const [least, size, unit] of UNITS_B) {
    if (n >= least) return `${fixed(n / size, 1)} ${unit}`;
  }
  return `${fixed(n, 0)} B`;
}

function fixed(n, digits) {
  return FIXED[digits].format(n);
}

/** UTC microseconds as date, time and offset of a zone, by default the browser's: `2026-10-25 02:00:00.000+01:00`. */
export function clock(us, zone) {
  const at = parts(us, zone);
  if (!at) return "unknown time";
  return `${at.year}-${at.month}-${at.day} ${at.hour}:${at.minute}:${at.second}.${at.fractionalSecond}${at.offset}`;
}

/** Only the time of day: `14:31:07.201`. */
export function time(us, zone) {
  return clock(us, zone).slice(11, 23) || "unknown time";
}

function parts(us, zone) {
  if (!(Math.abs(us) <= 8.64e18)) return null; // the range of Date
  if (!clocks.has(zone)) {
    const two = "2-digit";
    const fields = { year: "numeric", month: two, day: two, hour: two, minute: two, second: two };
    const more = { fractionalSecondDigits: 3, timeZoneName: "longOffset", hourCycle: "h23", timeZone: zone };
    clocks.set(zone, new Intl.DateTimeFormat("en-US", { ...fields, ...more }));
  }
  const found = {};
  for (const part of clocks.get(zone).formatToParts(Math.floor(us / 1e3))) found[part.type] = part.value;
  found.offset = found.timeZoneName.replace("GMT", "") || "+00:00";
  return found;
}

function offsetUs(at) {
  const [hours, minutes] = at.offset.slice(1).split(":").map(Number);
  return (at.offset[0] === "-" ? -1 : 1) * (hours * 60 + minutes) * 60e6;
}

/** Ticks `{us, label}` at round local times, by instant: where the offset changes, both labels have theirs. */
export function timeTicks(fromUs, toUs, most, zone) {
  const least = (toUs - fromUs) / Math.max(1, most);
  const step = STEPS_US.find((us) => us >= least) ?? Math.ceil(least / DAY_US) * DAY_US;
  let before = parts(fromUs, zone);
  const ticks = [];
  if (!before || !parts(toUs, zone)) return ticks;
  let us = Math.ceil((fromUs + offsetUs(before)) / step) * step - offsetUs(before);
  for (; us <= toUs; us += step) {
    let at = parts(us, zone);
    const shift = offsetUs(before) - offsetUs(at);
    if (shift && step > 3_600e6) {
      const moved = parts(us + shift, zone); // a round local time again, unless the clock jumped over it
      if (moved.offset !== before.offset) [us, at] = [us + shift, moved];
    }
    if (shift && ticks.length) ticks.at(-1).label += ` ${before.offset}`;
    ticks.push({ us, label: `${tickLabel(at, step)}${shift ? ` ${at.offset}` : ""}` });
    before = at;
  }
  return ticks;
}

function tickLabel(at, step) {
  if (step >= DAY_US) return `${at.month}-${at.day}`;
  if (step >= 60e6) return `${at.hour}:${at.minute}`;
  return `${at.hour}:${at.minute}:${at.second}${step >= 1e6 ? "" : `.${at.fractionalSecond}`}`;
}

/** The round end of an axis from 0 to at least `most`, whose half is round, too. */
export function axisTop(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, Number.MIN_VALUE)));
  if (!Number.isFinite(1 / power)) return 1;
  return power * [1, 2, 4, 6, 8, 10].find((n) => n * power >= most);
}

/** Round values from 0 to `most`, about `count` of them. */
export function valueTicks(most, count) {
  const least = most / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(least));
  if (!(power > 0) || !Number.isFinite(power)) return [0];
  const step = power * [1, 2, 5, 10].find((n) => n * power >= least * (1 - 1e-9));
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) => index * step);
}

const ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

const escape = (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`;

/** A recorded text with its control and reordering characters escaped, as the command line prints it, and cut. */
export function printable(text, most = 300) {
  const whole = String(text ?? "");
  const cut = whole.length > most ? `${whole.slice(0, most).replace(/[\ud800-\udbff]$/, "")}…` : whole;
  return cut.replace(/(?! )[\p{C}\p{Z}]/gu, (found) => ESCAPES[found] ?? escape(found));
}

/** How the status of a trace or span is drawn: `ok`, `warn`, `open` (no end is known) or `bad`. */
export function kindOfStatus(status) {
  return { ok: "ok", cancelled: "warn", open: "open", interrupted: "open" }[status] ?? "bad";
}

/** How the level of a log record is drawn: `log`, `warn` or `bad`. */
export function kindOfLevel(level) {
  return { debug: "log", info: "log", warning: "warn" }[level] ?? "bad";
}

/** The sign beside a colour. */
export function glyph(kind) {
  return GLYPHS[kind];
}

/** A number that can be drawn; 0 for anything else. */
export function finite(value) {
  return Number.isFinite(value) ? value : 0;
}
