// The state of the page is its address: `#traces?q=…&open=…`. The fragment is never sent to a server.

const listeners = [];
export const VIEWS = ["now", "traces", "logs", "doctor", "runs", "sql"];

/** Returns the view and its parameters. */
export function read() {
  const [name, query = ""] = splitOnce(location.hash.slice(1), "?");
  return { view: VIEWS.includes(name) ? name : "now", parameters: Object.fromEntries(new URLSearchParams(query)) };
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** Returns the fragment of a view; parameters without a value are dropped. */
export function to(view, parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `#${view}?${new URLSearchParams(kept)}` : `#${view}`;
}

/** Goes to a view; with `replace` without a step for the way back. */
export function go(view, parameters = {}, replace = false) {
  const target = to(view, parameters);
  if (target === location.hash) return;
  if (replace) history.replaceState(null, "", target);
  else history.pushState(null, "", target);
  changed();
}

/** Changes some parameters of the present view. */
export function change(some, replace = false) {
  const { view, parameters } = read();
  go(view, { ...parameters, ...some }, replace);
}

/** Calls `listener` whenever the address has changed. */
export function whenChanged(listener) {
  listeners.push(listener);
}

function changed() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", changed); // also when a person edits the fragment, or follows a link to one
