// The frame: header, search, views by address, keys, the connection's state. Starts everything.

import { claim, forget, isUnlocked, nowUs, setNow, takeOver, takeToken, whenLocked, whenOldStore } from "./api.js";
import { change, go, read, to, VIEWS, whenChanged } from "./address.js";
import { add, button, el, fill } from "./dom.js";
import { doctor } from "./doctor.js";
import { Live } from "./live.js";
import { logs } from "./logs.js";
import { now } from "./now.js";
import { runs } from "./runs.js";
import { choose, setting, whenChosen } from "./settings.js";
import { sql } from "./sql.js";
import { traces } from "./traces.js";
import { clock, command } from "./words.js";

const MAKERS = { now, traces, logs, doctor, runs, sql };
const NAMES = { now: "Now", traces: "Traces", logs: "Logs", doctor: "Doctor", runs: "Runs", sql: "SQL" };
const made = new Map();
let shown = null;

const status = el("p.offscreen", { role: "status" });
// One polite line for screen readers; what a person has asked for is shown as well.
const say = (text, isQuiet = false) => {
  fill(status, text);
  if (isQuiet) return;
  fill(toast, text);
  toast.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => {
    toast.hidden = true;
  }, 4_000);
};
const toast = el("p.toast", { hidden: true, "aria-hidden": "true" });
const main = el("main", { id: "main", tabindex: "-1" });
const nodeName = el("b.node-name");
const nodeId = el("span.id");
const connection = el("span.connection");
const asOf = el("span.as-of.soft");
const banner = el("div.banner", { role: "alert", hidden: true });
const nav = el(
  "nav",
  { "aria-label": "Views" },
  VIEWS.map((view) => el("a", { href: to(view), "data-view": view }, NAMES[view])),
);
const box = el("input", {
  type: "search",
  "aria-label": "Search traces and logs",
  placeholder: "result:timeout cap:llm.chat duration:>2s",
  spellcheck: "false",
  autocomplete: "off",
  autocapitalize: "off",
  enterkeyhint: "search",
});
const search = el("form.search", { role: "search", submit: submitted }, box, el("kbd", { "aria-hidden": "true" }, "/"));
const live = new Live(arrived, connected);

function submitted(event) {
  event.preventDefault();
  const [target, query = ""] = shown.search(box.value.trim()).slice(1).split("?");
  go(target, Object.fromEntries(new URLSearchParams(query)));
  box.blur();
}

function arrived(name, data) {
  if (name === "beat") return void stamp();
  if (name === "now") {
    setNow(data.now_us);
    stamp();
  }
  if (name === "reset") {
    for (const view of made.values()) if (view !== shown) view.isStale = true;
    return void shown?.reset(data.isOther);
  }
  if (name === "now" && shown !== made.get("now")) onNode(data);
  shown?.event(name, data);
  return undefined;
}

function stamp() {
  const text = `as of ${clock(nowUs())}`;
  if (asOf.textContent !== text) asOf.textContent = text;
}

const STATES = { live: "live", connecting: "connecting…", paused: "paused", off: "off", outdated: "live" };
let waiting = 0;

function connected(state, waitMs) {
  clearInterval(waiting);
  connection.className = `connection ${state}`;
  if (state === "lost") {
    let left = Math.round(waitMs / 1000);
    const tell = () =>
      fill(
        connection,
        `no connection, again in ${left} s `,
        button("Now", () => live.now(true), { class: "small" }),
      );
    tell();
    fill(status, "the connection to the node is lost");
    waiting = setInterval(() => {
      left = Math.max(0, left - 1);
      connection.firstChild.textContent = `no connection, again in ${left} s `;
    }, 1_000);
  } else fill(connection, STATES[state]);
  if (state === "outdated") {
    banner.hidden = false;
    fill(
      banner,
      "The node runs another version than this page. ",
      button("Reload", () => location.reload()),
    );
  }
}

function onNode({ node, verdict }) {
  nodeName.textContent = node.name || node.program || "HearthNet";
  nodeName.title = nodeName.textContent;
  nodeId.textContent = (node.short_id ?? "").replace(/^\w+:|=+$/g, "");
  nodeId.title = node.node_id ?? "";
  const sign = { fail: "✕ ", warn: "! " }[verdict?.status] ?? "";
  document.title = `${sign}${NAMES[read().view]} · ${nodeName.textContent} · HearthNet`;
}

async function route() {
  const token = takeToken();
  if (token !== null) return void start(token);
  if (!isUnlocked()) return undefined;
  const { view: name, parameters } = read();
  if (!made.has(name)) made.set(name, MAKERS[name]({ say, onNode }));
  const view = made.get(name);
  if (view !== shown) {
    shown?.hidden();
    shown = view;
    main.className = `view-${name}`;
    fill(main, view.root);
    view.shown();
    if (document.title) document.title = document.title.replace(/^([✕!] )?[^·]*/, `$1${view.title} `);
  }
  for (const link of nav.children) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (document.activeElement !== box) box.value = parameters.q ?? "";
  if (view.isStale) await view.reset(true);
  view.isStale = false;
  await view.show(parameters);
  return undefined;
}

function onKey(event) {
  if (
    event.defaultPrevented ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    document.querySelector("dialog[open]")
  )
    return;
  const isTyping = event.target.closest?.("input, textarea, select");
  if (isTyping) {
    if (event.key === "Escape" && event.target === box) box.blur();
    return;
  }
  const isSingle = event.key.length === 1;
  if (isSingle && !setting("keys")) return;
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    return void box.select();
  }
  if (event.key === "Enter" && event.target.closest?.("a, button, summary")) return;
  const isInList = event.target.closest?.(".list") || event.target === document.body || event.target === main;
  if (event.key.startsWith("Arrow") && !isInList) return;
  if (shown?.key(event.key)) event.preventDefault();
}

function settings() {
  const zone = el(
    "select",
    { change: (event) => choose("zone", event.target.value) },
    [
      ["local", "local time"],
      ["UTC", "UTC"],
    ].map(([value, text]) => el("option", { value, selected: setting("zone") === value }, text)),
  );
  const keys = el("input", {
    type: "checkbox",
    checked: setting("keys"),
    change: (event) => choose("keys", event.target.checked),
  });
  return el(
    "details.settings",
    {},
    el("summary", { "aria-label": "Settings" }, "⚙"),
    el(
      "div.panel",
      {},
      el("label", {}, "Times in ", zone),
      el("label", {}, keys, " Single keys: / j k"),
      el(
        "p.soft",
        {},
        el("kbd", {}, "/"),
        " search ",
        el("kbd", {}, "j"),
        " ",
        el("kbd", {}, "k"),
        " move ",
        el("kbd", {}, "Enter"),
        " open ",
        el("kbd", {}, "Esc"),
        " back",
      ),
      button("Lock this browser", forget),
    ),
  );
}

function lock(message = "") {
  live.stop();
  shown?.hidden();
  shown = null;
  document.body.className = "is-locked";
  fill(
    document.body,
    status,
    el(
      "main.locked",
      {},
      el("h1", {}, "HearthNet"),
      message ? el("p", {}, message) : null,
      add(el("p", {}, "To see this node, type on its machine: "), command("hearthnet page", say)),
      el("p.soft", {}, "It prints an address that opens once, for this browser alone."),
    ),
    toast,
  );
}

// In the place of every view: none could show anything.
function tellOldStore({ message, hint }) {
  live.stop();
  shown?.hidden();
  shown = null;
  made.clear();
  main.className = "view-old-store";
  fill(
    main,
    el(
      "section.panel",
      { "aria-label": "Store" },
      el("h1", {}, message),
      add(el("p", {}, "To see it: "), command(hint, say)),
      button("Try again", () => location.reload()),
    ),
  );
}

async function start(token = takeToken()) {
  if (token !== null) {
    try {
      await claim(token);
    } catch (error) {
      if (!isUnlocked()) return lock(error.message);
    }
  }
  if (!isUnlocked()) return lock();
  document.body.className = "";
  const skip = button("To the content", () => main.focus(), { class: "skip" });
  fill(
    document.body,
    skip,
    el(
      "header.top",
      {},
      el("div.who", {}, nodeName, nodeId),
      nav,
      search,
      el("div.state", {}, connection, asOf),
      settings(),
    ),
    banner,
    main,
    status,
    toast,
  );
  live.start();
  return route();
}

whenLocked(() => lock("This browser's access has ended or was revoked."));
whenOldStore(tellOldStore);
whenChanged(() => route());
whenChosen(() => {
  for (const view of made.values()) view.redraw();
});
addEventListener("storage", () => {
  const wasUnlocked = isUnlocked();
  const isNow = takeOver();
  if (!wasUnlocked && isNow) start(null);
  else if (wasUnlocked && !isNow) forget();
});
document.addEventListener("keydown", onKey);
start();
