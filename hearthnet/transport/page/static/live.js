// One stream of events a tab, open while the tab is visible. It comes back by itself after the last id it had.

import { ApiError, ask, VERSION } from "./api.js";
import { parse } from "./exact.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const SILENCE_MS = 40_000; // the node sends a comment every 15 s
const MAX_EVENT = 8_000_000; // characters; the node's events are far smaller

/**
 * Keeps the stream. `on(event, data)` gets what arrives, `hello` where a stream begins, and `reset` where events may be missing;
 * `onState(state, waitMs)` gets `connecting`, `live`, `lost`, `paused`, `off` or `outdated`.
 */
export class Live {
  #lastId = null;
  #epoch = null;
  #abort = null;
  #timer = 0;
  #waitMs = FIRST_WAIT_MS;
  #isWanted = false;

  constructor(on, onState) {
    this.on = on;
    this.onState = onState;
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("online", () => this.now());
  }

  /** Opens the stream as soon as the tab is visible. */
  start() {
    this.#isWanted = true;
    this.#look();
  }

  /** Closes the stream until `start`. */
  stop() {
    this.#isWanted = false;
    this.#close("off");
  }

  /** Tries again at once. */
  now() {
    if (!this.#isWanted || this.#abort !== null || document.hidden) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #look() {
    if (!this.#isWanted) return;
    if (document.hidden) this.#close("paused");
    else this.now();
  }

  #close(state) {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
    this.onState(state);
  }

  async #open() {
    const abort = new AbortController();
    this.#abort = abort;
    this.onState("connecting");
    try {
      const headers = this.#lastId === null ? {} : { "Last-Event-ID": this.#lastId };
      const response = await ask("events", { headers, signal: abort.signal });
      await this.#read(response.body, abort);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return this.stop();
    }
    if (this.#abort !== abort) return undefined; // closed on purpose
    abort.abort(); // after an error of ours the connection would stay open
    this.#abort = null;
    return this.#retry();
  }

  #retry() {
    const wait = this.#waitMs;
    this.#waitMs = Math.min(LONGEST_WAIT_MS, wait * 2);
    this.onState("lost", wait);
    this.#timer = setTimeout(() => this.#open(), wait);
  }

  async #read(body, abort) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new Parser((event) => this.#take(event));
    for (;;) {
      const silence = setTimeout(() => abort.abort(), SILENCE_MS);
      const { value, done } = await reader.read().finally(() => clearTimeout(silence));
      if (done || this.#abort !== abort) return;
      parser.push(value);
      this.on("beat");
    }
  }

  #take({ id, name, data }) {
    if (name === "hello") {
      this.#greet(data);
      if (this.#lastId === null) this.on("hello", data); // nothing that was missed will follow
    } else if (name === "reset") {
      this.#lastId = null;
      this.on("reset", { ...data, isOther: !id.startsWith(`${this.#epoch}:`) });
    } else this.on(name, data);
    if (id) this.#lastId = id; // that of a hello is the place from which the stream goes on
  }

  #greet({ epoch, version }) {
    const isOther = this.#epoch !== null && this.#epoch !== epoch;
    this.#epoch = epoch;
    this.#waitMs = FIRST_WAIT_MS;
    this.onState(version !== undefined && version !== VERSION ? "outdated" : "live");
    if (isOther) this.on("reset", { reason: "the node has another store", isOther: true });
  }
}

/** Splits text into events as they are framed in `text/event-stream`. */
export class Parser {
  #rest = "";

  constructor(onEvent) {
    this.onEvent = onEvent;
  }

  push(text) {
    this.#rest += text;
    if (this.#rest.length > MAX_EVENT) throw new Error("an event is too large");
    const events = this.#rest.split("\n\n");
    this.#rest = events.pop();
    for (const event of events) this.#parse(event);
  }

  #parse(text) {
    const fields = { id: "", event: "message", data: "" };
    for (const line of text.split("\n")) {
      const at = line.indexOf(":");
      if (at === 0) continue; // a comment
      const name = at < 0 ? line : line.slice(0, at);
      const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
      if (name === "data") fields.data += (fields.data ? "\n" : "") + value;
      else if (name in fields) fields[name] = value;
    }
    if (fields.data) this.onEvent({ id: fields.id, name: fields.event, data: parse(fields.data) });
  }
}
