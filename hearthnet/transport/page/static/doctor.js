// Doctor: its report, worst first; what changed and since when; fixes to copy.

import { to } from "./address.js";
import { button, el } from "./dom.js";
import { Loader } from "./loader.js";
import { fixLine } from "./trace.js";
import { counted, outcome, took, valueText, when } from "./words.js";

const WORST_FIRST = ["fail", "warn", "skip", "pass"];
const KINDS = { pass: "ok", ok: "ok", warn: "warn", fail: "bad", skip: "soft" };

/** Returns the view. */
export function doctor({ say }) {
  const host = el("div.doctor-host");
  let wanted = null;
  const loader = new Loader(host, "doctor", (report) => reportLines(report, wanted, say, () => run()));
  const run = async () => {
    const report = await loader.load();
    if (report) say(summary(report.results ?? []), true);
  };
  return {
    root: el("section.panel.doctor", { "aria-label": "Doctor" }, host),
    title: "Doctor",
    async show({ check }) {
      wanted = check ?? null;
      await run();
      host.querySelector("[data-wanted]")?.scrollIntoView({ block: "nearest" });
    },
    shown() {},
    hidden() {},
    redraw: () => loader.redraw(),
    reset: () => run(),
    event() {},
    key: () => false,
    search: (q) => to("traces", { q }),
  };
}

function summary(results) {
  const of = (status) => results.filter((result) => result.status === status).length;
  const [failed, warned] = [of("fail"), of("warn")];
  const words = [failed && `${failed} failed`, warned && `${warned} warned`].filter(Boolean).join(", ");
  return `${counted(results.length, "check")}: ${words || "nothing to do"}`;
}

function reportLines(report, wanted, say, run) {
  if (!report?.results) {
    return [
      el("h1", {}, "Doctor"),
      el("p", {}, report?.sentence ?? report?.message ?? "The checks need a running node."),
      el("p.soft", {}, "Start it: hearthnet run"),
    ];
  }
  const sorted = [...report.results].sort((a, b) => rank(a) - rank(b));
  const [noted, quiet] = [
    sorted.filter((one) => rank(one) < 2 || one.name === wanted),
    sorted.filter((one) => rank(one) >= 2 && one.name !== wanted),
  ];
  return [
    el(
      "div.bar",
      {},
      el("h1", {}, summary(report.results)),
      el("span.grow"),
      el("span.soft", {}, "as of ", when(report.ran_us)),
      button("Run again", run),
    ),
    el(
      "div.doctor-columns",
      {},
      el(
        "div",
        {},
        noted.length
          ? noted.map((one) => finding(one, one.name === wanted, say))
          : el("p", {}, "No check has a finding."),
      ),
      el(
        "div",
        {},
        changes(report.changes),
        el(
          "details",
          { open: !noted.length },
          el("summary", {}, `${counted(quiet.length, "check")} without a finding`),
          quiet.map((one) => finding(one, false, say)),
        ),
      ),
    ),
  ];
}

function rank({ status }) {
  const at = WORST_FIRST.indexOf(status);
  return at < 0 ? WORST_FIRST.length : at;
}

function finding(one, isWanted, say) {
  const evidence = Object.entries(one.evidence ?? {});
  const shown = evidence.length
    ? el(
        "details",
        {},
        el("summary", {}, "evidence"),
        el(
          "dl.fields",
          {},
          evidence.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, valueText(value)))),
        ),
      )
    : null;
  return el(
    `article.finding${isWanted ? ".wanted" : ""}`,
    { "data-wanted": isWanted },
    el(
      "h2",
      {},
      outcome(one.status, KINDS[one.status]),
      " ",
      el("span.mono", {}, one.name),
      one.since_us ? el("span", {}, "since ", when(one.since_us)) : null,
      el("span.grow"),
      el("span", {}, took(one.duration_ms)),
    ),
    el("p", {}, one.detail),
    one.status === "pass" ? null : fixLine(one.fix, say),
    shown,
  );
}

function changes(list) {
  if (!list?.length) return null;
  return el(
    "section.changes",
    {},
    el("h2", {}, "What changed"),
    el(
      "ul",
      {},
      list.map((one) =>
        el(
          "li",
          {},
          when(one.at_us),
          " ",
          el("span.mono", {}, one.name),
          " ",
          one.from ? [outcome(one.from, KINDS[one.from]), " → "] : null,
          outcome(one.to, KINDS[one.to]),
        ),
      ),
    ),
  );
}
