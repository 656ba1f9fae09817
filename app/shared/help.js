// The dialog that lists what keys do.

import { add, el } from "./dom.js";

/** @typedef {[string, [string, string][]]} Section A title, and keys with what they do. */

/** @param {Section[]} sections */
function dialogOf(sections) {
  const dialog = el("dialog", "help", null, { id: "help", "aria-label": "Keyboard" });
  const close = el("button", "behind-close", "×", { type: "button", "aria-label": "Close" });
  close.addEventListener("click", () => dialog.close());
  dialog.appendChild(add(el("div", "help-head"), el("h2", "", "Keyboard"), close));
  for (const [title, keys] of sections) {
    const list = el("dl");
    for (const [key, what] of keys) {
      const term = el("dt");
      for (const each of key.split(" "))
        term.appendChild(el(each === "…" ? "span" : "kbd", "", each));
      add(list, term, el("dd", "", what));
    }
    add(dialog, el("h3", "", title), list);
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return document.body.appendChild(dialog);
}

/**
 * Show it, or close it if it is shown.
 * @param {() => Section[]} sections
 */
export function toggleHelp(sections) {
  const found = document.getElementById("help");
  const dialog = found instanceof HTMLDialogElement ? found : dialogOf(sections());
  if (dialog.open) dialog.close();
  else dialog.showModal();
}
