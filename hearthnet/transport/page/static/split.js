// A list with what is opened of it: side by side on a wide screen; on a narrow one the opened covers the list, which
// keeps its place beneath.

import { el } from "./dom.js";

/** Returns `{root, open(isOpen)}`. */
export function split(left, right) {
  const root = el("div.split", {}, left, right);
  const narrow = matchMedia("(max-width: 900px)");
  const cover = () => {
    left.inert = narrow.matches && root.classList.contains("has-open");
  };
  narrow.addEventListener("change", cover);
  right.hidden = true;
  const open = (isOpen) => {
    root.classList.toggle("has-open", isOpen);
    right.hidden = !isOpen;
    cover();
  };
  return { root, open };
}
