// A view whose data is one answer of the node: loading, error with what to do, and drawn anew only when it has changed.

import { ApiError, get } from "./api.js";
import { button, el, fill, part } from "./dom.js";

/** Loads `path` and draws its answer into `host`. */
export class Loader {
  data = null;
  #abort = null;

  constructor(host, path, draw) {
    Object.assign(this, { host, path });
    this.update = part(host, draw);
  }

  /** Asks again; returns the answer, or null where there is none. */
  async load(parameters = {}) {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    this.host.setAttribute("aria-busy", "true");
    if (this.data === null) fill(this.host, el("p.soft", {}, "loading…"));
    try {
      this.data = await get(this.path, parameters, abort.signal);
      this.update(this.data);
      return this.data;
    } catch (error) {
      if (error instanceof ApiError && error.status !== 401) this.#fail(error, parameters);
      return null;
    } finally {
      if (this.#abort === abort) this.host.removeAttribute("aria-busy");
    }
  }

  /** Draws the same data again: the zone has changed. */
  redraw() {
    if (this.data !== null) this.update(this.data, true);
  }

  // What is shown stays: it has its "as of" above.
  #fail(error, parameters) {
    if (this.data !== null) return;
    fill(
      this.host,
      el("p.t-bad", {}, error.message),
      error.hint ? el("p.soft", {}, error.hint) : null,
      button("Try again", () => this.load(parameters)),
    );
  }
}
