// Runs: each life of a program with its verdict and evidence; versions side by side.

import { get, nowUs } from "./api.js";
import { change, to } from "./address.js";
import { button, el, fill, table } from "./dom.js";
import { spark } from "./drawing.js";
import { Loader } from "./loader.js";
import { term } from "./query.js";
import { split } from "./split.js";
import { bytes, copy, counted, number, outcome, share, span, took, when } from "./words.js";

const MAX_RUNS = 200;
const MAX_VERSIONS = 6;
const MAX_CAPABILITIES = 100;
const SLOWER = 1.5; // this many times the p95 of the version before is worth a look
const QUIET = { clean_stop: "ok", running: "ok" };

/** Returns the view. */
export function runs({ say }) {
  const host = el("div.runs-host");
  const left = el("section.panel.runs", { "aria-label": "Runs" }, host);
  const pane = el("section.panel.pane", { "aria-label": "Opened run", tabindex: "-1" });
  const { root: both, open } = split(left, pane);
  const versions = el("section.panel", { "aria-label": "Versions", hidden: true });
  const root = el("div.runs-view", {}, both, versions);
  let opened = null;
  let isStale = true;
  const loader = new Loader(host, "runs", (answer) => {
    versions.hidden = !answer.versions?.length;
    fill(versions, versionLines(answer.versions ?? []));
    return runLines(answer, opened);
  });
  const close = () => change({ open: "" });
  return {
    root,
    title: "Runs",
    async show({ open: id }) {
      opened = id ?? null;
      open(opened !== null);
      if (isStale) await loader.load();
      else loader.redraw();
      isStale = false;
      if (opened !== null) await showRun(pane, opened, close, say);
    },
    shown() {
      isStale = true;
    },
    hidden() {},
    redraw: () => loader.redraw(),
    reset: () => loader.load(),
    event() {},
    key: (name) => (name === "Escape" && opened !== null ? (close(), true) : false),
    search: (q) => to("traces", { q }),
  };
}

function runLines({ runs: all }, opened) {
  if (!all.length) return el("p", {}, "No run is in the store yet. Start a node: hearthnet run");
  const rows = all
    .slice(0, MAX_RUNS)
    .map((run) =>
      el(
        `tr${run.run_id === opened ? ".opened" : ""}`,
        {},
        el(
          "td",
          {},
          el(
            "a",
            { href: to("runs", { open: run.run_id }), "aria-current": run.run_id === opened ? "true" : null },
            when(run.started_us),
          ),
        ),
        el("td.mono", {}, run.program || "–"),
        el("td", {}, run.version || "–"),
        el("td.num", {}, span((endOf(run) - run.started_us) / 1000)),
        el("td", {}, verdict(run)),
        el("td.soft.summary", {}, run.summary ?? ""),
      ),
    );
  return [
    el("h2", {}, "Runs ", el("span", {}, `${counted(all.length, "run")}, newest first`)),
    table(["started", "program", "version", ["ran", "num"], "end", ""], rows, "Runs"),
    all.length > rows.length ? el("p.soft", {}, `the newest ${number(rows.length)} of ${number(all.length)}`) : null,
  ];
}

function endOf(run) {
  return run.is_alive ? nowUs() : (run.ended_us ?? run.last_seen_us ?? run.started_us);
}

function verdict(run) {
  if (run.is_alive) return outcome("running", "ok");
  const word = (run.verdict ?? run.end_reason ?? "unknown").replaceAll("_", " ");
  return outcome(
    word,
    QUIET[run.verdict ?? ""] ?? (run.end_reason === "clean" ? "ok" : run.verdict === "unknown" ? "warn" : "bad"),
  );
}

function versionLines(versions) {
  if (!versions.length) return null;
  const shown = versions.slice(0, MAX_VERSIONS);
  const names = [...new Set(shown.flatMap(({ by_capability: all }) => all.map(({ capability }) => capability)))].slice(
    0,
    MAX_CAPABILITIES,
  );
  const cell = (one, before) => {
    if (!one) return el("td.num.soft", {}, "–");
    const isSlower = before?.p95_ms && one.p95_ms > SLOWER * before.p95_ms;
    const p95 = one.p95_ms === null ? `${counted(one.count, "call")}` : took(one.p95_ms);
    return el(
      "td.num",
      {
        title: `${counted(one.count, "call")}, ${number(one.failed)} failed, p50 ${took(one.p50_ms)}, p95 ${took(one.p95_ms)}`,
      },
      p95,
      one.failed ? el("span.t-bad", {}, ` ${share(one.failed, one.count)} failed`) : null,
      isSlower
        ? el(
            "b.t-warn",
            { title: "times the p95 of the version before" },
            ` ▲ ${(one.p95_ms / before.p95_ms).toFixed(1)}×`,
          )
        : null,
    );
  };
  const of = (version, name) => version?.by_capability.find(({ capability }) => capability === name);
  const rows = [
    el(
      "tr",
      {},
      el("td", {}, "all"),
      shown.map((version, at) => cell(version, shown[at + 1])),
    ),
    ...names.map((name) =>
      el(
        "tr",
        {},
        el("td.mono.name", {}, el("a", { href: to("traces", { q: term("cap", name) }), title: name }, name)),
        shown.map((version, at) => cell(of(version, name), of(shown[at + 1], name))),
      ),
    ),
  ];
  return [
    el(
      "h2",
      {},
      "Versions side by side ",
      el("span", {}, "p95, newest first; ▲ marks what got slower than in the version before"),
    ),
    table(["capability", ...shown.map(({ version }) => [version || "–", "num"])], rows, "Versions"),
  ];
}

async function showRun(pane, id, close, say) {
  if (pane.dataset.run !== id) fill(pane, el("p.soft", {}, "loading…"));
  pane.dataset.run = id;
  pane.setAttribute("aria-busy", "true");
  const run = await get(`runs/${encodeURIComponent(id)}`).catch((error) => error);
  if (pane.dataset.run !== id) return undefined; // another was opened meanwhile
  pane.removeAttribute("aria-busy");
  const bar = (title) =>
    el("div.bar", {}, title, el("span.grow"), button("Close", close, { class: "close", title: "Esc" }));
  if (run instanceof Error) return void fill(pane, bar(el("h2", {}, "Run")), el("p", {}, run.message));
  const list = (title, lines) =>
    lines?.length
      ? [
          el("h3", {}, title),
          el(
            "ul",
            {},
            lines.map((line) => el("li", {}, line)),
          ),
        ]
      : null;
  fill(
    pane,
    bar(el("h2", {}, verdict(run), run.confidence ? el("span", {}, run.confidence) : null)),
    el("p", {}, run.summary ?? ""),
    el("p.mono.id", {}, run.run_id),
    el(
      "p.soft",
      {},
      `${run.program || "a program"}, pid ${run.pid}, version ${run.version || "unknown"}, started `,
      when(run.started_us),
      run.ended_us
        ? [", ended ", when(run.ended_us)]
        : run.last_seen_us
          ? [", last seen ", when(run.last_seen_us)]
          : null,
    ),
    el(
      "div.bar",
      {},
      button("Copy id", () => copy(run.run_id, say)),
      button("Copy command", () => copy(`hearthnet autopsy --run ${run.run_id}`, say), {
        title: `hearthnet autopsy --run ${run.run_id}`,
      }),
      el("a.button", { href: to("traces", { q: term("run", run.run_id) }) }, "Its traces"),
      el("a.button", { href: to("logs", { q: term("run", run.run_id) }) }, "Its logs"),
    ),
    list("Evidence", run.evidence),
    list("Could also be", run.alternatives),
    list("Not known", run.missing),
    run.in_flight?.length
      ? [
          el("h3", {}, run.is_alive ? "In flight" : "In flight when it ended"),
          table(
            ["capability", ["age", "num"], "innermost open span"],
            run.in_flight.map((flight) =>
              el(
                "tr",
                {},
                el("td.mono", { title: flight.trace_id }, flight.capability),
                el("td.num", {}, `${run.is_alive ? "" : "≥ "}${took(flight.age_ms)}`),
                el("td.mono", {}, flight.span ?? "–"),
              ),
            ),
            "In flight",
          ),
        ]
      : null,
    memory(run),
  );
  return undefined;
}

function memory({ vitals, is_alive: isAlive }) {
  const values = (vitals ?? [])
    .map(({ rss_bytes: size }) => size)
    .filter((size) => size !== null && size !== undefined);
  if (values.length < 2) return null;
  const line = el("div.spark");
  requestAnimationFrame(() => spark(line, values));
  return [
    el("h3", {}, `Memory${isAlive ? "" : " before the end"}: ${bytes(values[0])} to ${bytes(values.at(-1))}`),
    line,
  ];
}
