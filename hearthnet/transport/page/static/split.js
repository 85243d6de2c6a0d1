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
    const hadFocus = root.contains(document.activeElement);
    const isChange = right.hidden === isOpen;
    root.classList.toggle("has-open", isOpen);
    right.hidden = !isOpen;
    cover();
    // What is covered or hidden cannot keep the focus.
    if (!narrow.matches || !isChange || !hadFocus) return;
    (isOpen ? right : left.querySelector(".list, [tabindex]"))?.focus({ preventScroll: true });
  };
  return { root, open };
}
