// Asks the node: claims the token once, keeps the secret for this origin, sends it in a header of each request.

import { parse } from "./exact.js";

const KEY = "hearthnet.page.secret";
const HEADER = "X-HearthNet-Page";
const OLD_STORE = 501; // of any route: the store is of a version that the node does not show
// Wherever the page is mounted, the modules are at <base>page/<version>/.
export const BASE = new URL("../../", import.meta.url);
export const VERSION = decodeURIComponent(new URL(".", import.meta.url).pathname.split("/").at(-2));

let secret = localStorage.getItem(KEY);
let onLocked = () => {};
let onOldStore = () => {};
let clockOffsetUs = 0;

/** An answer that is no success, in the node's own words; `status` 0: there was no answer. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.message || `the node answered ${status}`);
    this.status = status;
    this.hint = body.hint || "";
  }
}

/** Calls `listener` whenever the node no longer accepts our secret. */
export function whenLocked(listener) {
  onLocked = listener;
}

/** Calls `listener` with the error whenever the node says that it does not show a store of this version. */
export function whenOldStore(listener) {
  onOldStore = listener;
}

/** Whether there is a secret to try. */
export function isUnlocked() {
  return secret !== null;
}

/** Takes the token out of the address before anything is asked; null without one. */
export function takeToken() {
  const found = /^#token=([^&]+)&?(.*)$/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", `${location.pathname}${location.search}#${found[2]}`);
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1]; // no token of ours: the node refuses it
  }
}

/** Exchanges a token for a secret. Throws ApiError: wrong, used or too old. */
export async function claim(token) {
  const response = await ask("claim", { method: "POST", body: JSON.stringify({ token }), json: true });
  secret = (await response.json()).secret;
  localStorage.setItem(KEY, secret);
}

/** Forgets the secret in this browser. */
export function forget() {
  localStorage.removeItem(KEY);
  secret = null;
  onLocked();
}

/** Takes over a secret that another tab of this origin got; returns whether there is one. */
export function takeOver() {
  secret = localStorage.getItem(KEY);
  return secret !== null;
}

/** The node's own time, UTC microseconds. */
export function nowUs() {
  return Date.now() * 1000 + clockOffsetUs;
}

/** Sets the node's time. */
export function setNow(us) {
  clockOffsetUs = us - Date.now() * 1000;
}

/** Returns the JSON of a route; parameters without a value are not sent. */
export async function get(path, parameters = {}, signal = undefined) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = kept.length ? `?${new URLSearchParams(kept)}` : "";
  return json(await ask(path + query, { signal }));
}

/** Posts JSON, returns JSON. */
export async function post(path, body, signal = undefined) {
  return json(await ask(path, { method: "POST", body: JSON.stringify(body), json: true, signal }));
}

/** Returns a response of a route, whatever its type. Throws ApiError. */
export async function ask(path, { json = false, headers = {}, ...options } = {}) {
  const sent = secret;
  const all = { ...headers, ...(json ? { "Content-Type": "application/json" } : {}) };
  if (sent !== null && path !== "claim") all[HEADER] = sent;
  const url = new URL(`page/v1/${path}`, BASE);
  const response = await fetch(url, {
    ...options,
    headers: all,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  }).catch(unreachable);
  if (response.ok) return response;
  const body = await response.json().catch(unspoken);
  if (response.status === 401 && path !== "claim") return locked(sent, path, { json, headers, ...options }, body);
  const error = new ApiError(response.status, body);
  if (response.status === OLD_STORE) onOldStore(error);
  throw error;
}

// The connection may end within a body, too.
async function json(response) {
  try {
    return parse(await response.text());
  } catch (error) {
    return unreachable(error);
  }
}

function unreachable(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError(0, { message: "the node does not answer", hint: "hearthnet status" });
}

// A body of no JSON says nothing; a request that was given up has no answer, whatever its status.
function unspoken(error) {
  if (error.name === "AbortError") throw error;
  return {};
}

// Another tab may have got a newer secret meanwhile: that one is tried first.
function locked(sent, path, options, body) {
  const newer = localStorage.getItem(KEY);
  if (newer !== null && newer !== sent) {
    secret = newer;
    return ask(path, options);
  }
  if (secret === sent) {
    secret = null;
    localStorage.removeItem(KEY);
    onLocked();
  }
  throw new ApiError(401, body);
}
