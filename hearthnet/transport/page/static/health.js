// The health in Now: the verdict, calls in flight, the process, the store.

import { nowUs } from "./api.js";
import { to } from "./address.js";
import { share as shares, spark } from "./drawing.js";
import { button, el, table } from "./dom.js";
import { term } from "./query.js";
import { bytes, copy, counted, duration, number, outcome, span, took, when } from "./words.js";

const MAX_FLIGHTS = 20;
const MAX_DETAIL = 320; // characters of the verdict
const KINDS = { ok: "t-ok", warn: "t-warn", fail: "t-bad", unknown: "soft" };
const VITALS = [
  ["memory", "rss_bytes", bytes],
  ["memory left", "memory_left_bytes", bytes],
  ["loop lag", "loop_lag_s", (s) => duration(s * 1000)],
  ["open files", "open_files", number],
  ["disk free", "disk_free_bytes", bytes],
  ["load", "load", number],
];
const PARTS = { wal: "WAL", box: "black boxes" };

/** Returns the verdict: a sentence, its cause, what to do. */
export function verdictLines(verdict, say) {
  const kind = KINDS[verdict.status] ?? "soft";
  const failed = verdict.capability && `${term("cap", verdict.capability)} result:failed`;
  const why = verdict.check ? el("a.button", { href: to("doctor", { check: verdict.check }) }, "Why?") : null;
  const calls = failed ? el("a.button", { href: to("traces", { q: failed }) }, "Failed calls") : null;
  const since = verdict.since_us
    ? el("span.since", {}, "since ", when(verdict.since_us), ` · ${span((nowUs() - verdict.since_us) / 1000)}`)
    : null;
  return [
    el(`div.edge.${kind}`, { "aria-hidden": "true" }),
    el(
      "div",
      {},
      el("h1", {}, verdict.sentence, " ", since),
      verdict.detail ? el("p", { title: verdict.detail }, cut(verdict.detail)) : null,
      verdict.fix ? el("p.fix", {}, el("code", {}, verdict.fix)) : null,
    ),
    el("div.do", {}, why, calls, verdict.fix ? button("Copy fix", () => copy(verdict.fix, say)) : null),
  ];
}

// The whole of it is a click away, in Doctor.
function cut(text) {
  return text.length > MAX_DETAIL ? `${text.slice(0, MAX_DETAIL)}…` : text;
}

/** Returns the calls in flight, oldest first. */
export function flightTable(flights) {
  const living = flights.filter(({ is_alive: isAlive }) => isAlive);
  const dead = flights.filter(({ is_alive: isAlive }) => !isAlive);
  const note = flights.length
    ? `${number(living.length)} now${dead.length ? `, ${number(dead.length)} when its run died` : ""}, oldest first`
    : "";
  if (!flights.length) return [el("h2", {}, "In flight"), el("p.soft", {}, "No call is open.")];
  const sorted = [...flights].sort((a, b) => b.age_ms - a.age_ms);
  const rows = sorted
    .slice(0, MAX_FLIGHTS)
    .map((flight) =>
      el(
        flight.is_alive ? "tr" : "tr.dead",
        {},
        el(
          "td.mono",
          {},
          el(
            "a",
            { href: to("traces", { q: term("cap", flight.capability) }), title: flight.trace_id },
            flight.capability,
          ),
        ),
        el("td.num", {}, flight.is_alive ? took(flight.age_ms) : `≥ ${took(flight.age_ms)}`),
        el("td.mono", {}, flight.span ?? "–"),
        el("td.soft", {}, flight.is_alive ? (flight.program ?? "") : `${flight.program ?? "its program"} died`),
      ),
    );
  return [
    el("h2", {}, "In flight ", el("span", {}, note)),
    table(["capability", ["age", "num"], "innermost open span", "program"], rows, "In flight"),
    sorted.length > rows.length ? el("p.soft", {}, `and ${number(sorted.length - rows.length)} younger`) : null,
  ];
}

/** Returns the samples of the process. */
export function vitalCharts(vitals) {
  const head = el("h2", {}, "This process");
  if (!vitals?.length)
    return [head, el("p.soft", {}, "No sample yet; there is one every few seconds while a node runs.")];
  const charts = VITALS.map(([label, key, text]) => {
    const values = vitals.map((sample) => sample[key]).filter((value) => value !== null && value !== undefined);
    if (!values.length) return null;
    const line = el("div.spark");
    if (values.length > 1) spark(line, values, { label, words: text });
    return el("div.vital", {}, el("span.soft", {}, label), " ", el("b", {}, text(values.at(-1))), line);
  });
  return [head, el("div.vitals-grid", {}, charts)];
}

/** Returns what the store holds against its bounds. */
export function storeLines(store) {
  const parts = Object.entries(store.disk).map(([name, { bytes: size, bound }]) => ({
    label: PARTS[name] ?? name,
    bytes: size,
    bound,
  }));
  const used = parts.reduce((sum, { bytes: size }) => sum + size, 0);
  const lost = store.lost.reduce((sum, { count }) => sum + count, 0);
  const bar = el("div.share-host");
  shares(
    bar,
    parts.map(({ label, bytes: size }) => ({ label, value: size })),
    { total: store.max_disk_bytes ?? 0 },
  );
  const whole = store.max_disk_bytes ? `${bytes(used)} of ${bytes(store.max_disk_bytes)}` : bytes(used);
  return [
    el(
      "h2",
      {},
      "Store ",
      el(
        "span",
        {},
        `${whole} · ${lost ? "" : "nothing lost · "}${number(store.commits_per_minute ?? 0)} commits a minute`,
      ),
    ),
    bar,
    el(
      "dl.fields",
      {},
      parts.map(({ label, bytes: size, bound }) =>
        el("div", {}, el("dt", {}, label), el("dd", {}, bound ? `${bytes(size)} of ${bytes(bound)}` : bytes(size))),
      ),
      Object.entries(store.rings).map(([name, ring]) =>
        el(
          "div",
          {},
          el("dt", {}, name),
          el(
            "dd",
            {},
            `${number(ring.ordinary + ring.notable)} of ${number(ring.size)}, ${number(ring.notable)} of them notable`,
            ring.oldest_us ? [" · oldest ", when(ring.oldest_us)] : null,
          ),
        ),
      ),
    ),
    store.lost.length
      ? el(
          "ul.lost",
          {},
          store.lost.map(({ reason, kind, count, last_us: last }) =>
            el(
              "li",
              {},
              outcome(`${counted(count, `${kind} record`)} lost: ${reason}`, "bad"),
              last ? [el("span.soft", {}, " · last "), when(last)] : null,
            ),
          ),
        )
      : null,
  ];
}
