// SQL: the cookbook's questions, an editor, the result as a table and as CSV.

import { ApiError, post } from "./api.js";
import { change, to } from "./address.js";
import { button, el, fill, table } from "./dom.js";
import { Loader } from "./loader.js";
import { copy, counted, download, number, took, valueText } from "./words.js";

const MAX_ROWS = 500; // drawn; the CSV has all that were sent
const MAX_CELL = 500; // characters drawn of a cell

/** Returns the view. */
export function sql({ say }) {
  const editor = el("textarea", {
    rows: "8",
    spellcheck: "false",
    autocapitalize: "off",
    "aria-label": "SQL",
    placeholder: "SELECT … (Ctrl+Enter runs it)",
  });
  const result = el("div.result", { tabindex: "-1" });
  const aside = el("div.questions");
  const loader = new Loader(aside, "questions", (answer) =>
    questions(answer, (text) => {
      editor.value = text;
      run();
    }),
  );
  let abort = null;
  const run = async () => {
    const text = editor.value.trim();
    if (!text) return;
    change({ sql: text }, true);
    abort?.abort();
    abort = new AbortController();
    fill(result, el("p.soft", {}, "running…"));
    try {
      const answer = await post("sql", { sql: text }, abort.signal);
      fill(result, rows(answer, say));
      say(`${counted(answer.rows.length, "row")} in ${took(answer.took_ms)}`, true);
    } catch (error) {
      if (!(error instanceof ApiError)) return;
      fill(result, el("pre.t-bad", {}, error.message), error.hint ? el("p.soft", {}, error.hint) : null);
      say(error.message, true);
    }
  };
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  const root = el(
    "div.sql-view",
    {},
    el(
      "section.panel",
      { "aria-label": "Query" },
      editor,
      el(
        "div.bar",
        {},
        button("Run", run, { class: "primary" }),
        button("Copy", () => copy(editor.value, say)),
        el("span.soft", {}, "read only; Ctrl+Enter runs it"),
      ),
      result,
    ),
    el("aside.panel", { "aria-label": "Questions and tables" }, aside),
  );
  return {
    root,
    title: "SQL",
    async show({ sql: text }) {
      if (text && text !== editor.value) editor.value = text;
      if (!loader.data) await loader.load();
    },
    shown() {},
    hidden() {},
    redraw() {},
    reset() {},
    event() {},
    key: () => false,
    search: (q) => to("traces", { q }),
  };
}

function questions({ questions: all, tables }, pick) {
  return [
    el("h2", {}, "Questions"),
    el(
      "ul.plain",
      {},
      all.map(({ title, sql: text }) =>
        el(
          "li",
          {},
          button(title, () => pick(text), { class: "link", title: text }),
        ),
      ),
    ),
    el("h2", {}, "Tables and views"),
    tables.map(({ name, kind, comment, columns }) =>
      el(
        "details",
        {},
        el("summary", {}, el("span.mono", {}, name), el("span.soft", {}, ` ${kind}`)),
        comment ? el("p.soft", {}, comment) : null,
        el(
          "dl.fields",
          {},
          columns.map((column) => el("div", {}, el("dt", {}, column.name), el("dd.soft", {}, column.comment ?? ""))),
        ),
      ),
    ),
  ];
}

function rows({ columns, rows: all, has_more: hasMore, took_ms: ms }, say) {
  const text = () => csv(columns, all);
  const shown = all.slice(0, MAX_ROWS).map((row) =>
    el(
      "tr",
      {},
      row.map((value) => cell(value)),
    ),
  );
  const count = `${counted(all.length, "row")}${hasMore ? ", and more that were not sent" : ""}, ${took(ms)}`;
  return [
    el(
      "div.bar",
      {},
      el("span.soft", {}, count),
      el("span.grow"),
      button("Copy CSV", () => copy(text(), say)),
      button("Download CSV", () => download("query.csv", text(), "text/csv")),
    ),
    all.length ? table(columns, shown, "Result") : el("p", {}, "No rows."),
    all.length > shown.length ? el("p.soft", {}, `the first ${number(shown.length)} are drawn; the CSV has all`) : null,
  ];
}

function cell(value) {
  if (value === null) return el("td.soft", {}, "NULL");
  const text = valueText(value);
  return el(
    typeof value === "number" || value instanceof Number ? "td.num.mono" : "td.mono",
    { title: text.length > 40 ? text.slice(0, 2_000) : null },
    text.slice(0, MAX_CELL),
  );
}

/** Returns RFC 4180; a cell that a spreadsheet would take for a formula is text. */
export function csv(columns, all) {
  const quoted = (value) => {
    const text = value === null ? "" : valueText(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [columns, ...all].map((row) => row.map(quoted).join(",")).join("\r\n");
}
