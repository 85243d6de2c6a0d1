// A list as text, in a dialog of its own.

import { button, el } from "./dom.js";
import { copy, counted } from "./words.js";

const MAX_ROWS = 2_000;

/** Shows rows as text, a node of the document each: one node for all of them would be cut. */
export function showAsText(noun, all, asText, say) {
  const rows = all.slice(0, MAX_ROWS);
  const lines = rows.map((row) => `${asText(row)}\n`);
  const dialog = el(
    "dialog.as-text",
    { "aria-label": `${noun}s as text`, close: () => dialog.remove() },
    el(
      "div.bar",
      {},
      el("b", {}, counted(rows.length, noun)),
      all.length > rows.length ? el("span.soft", {}, "the newest of those loaded") : null,
      el("span.grow"),
      button("Copy", () => copy(lines.join("").trimEnd(), say)),
      button("Close", () => dialog.close()),
    ),
    el("pre", { tabindex: "0" }, rows.length ? lines : "no rows"),
  );
  document.body.append(dialog);
  dialog.showModal();
}
