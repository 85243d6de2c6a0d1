// What a person chose for this browser: the time zone, and whether single keys do something.

const KEY = "hearthnet.page.settings";
const chosen = { zone: "local", keys: true, ...stored() };
const listeners = [];

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // written by hand, or by another program at this origin
  }
}

/** Returns a setting: `zone` is "local" or "UTC", `keys` a boolean. */
export function setting(name) {
  return chosen[name];
}

/** Changes a setting, and redraws what depends on it. */
export function choose(name, value) {
  chosen[name] = value;
  localStorage.setItem(KEY, JSON.stringify(chosen));
  for (const listener of listeners) listener();
}

/** Calls `listener` when a setting has changed. */
export function whenChosen(listener) {
  listeners.push(listener);
}
