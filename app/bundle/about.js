// What a bundle says of itself: what it is of, what it holds, and what that reveals.

import { add, el } from "../shared/dom.js";
import { plural } from "../shared/text.js";

/** @import { Index } from "./types.js" */

/**
 * @param {Index} index
 * @returns {string[]}
 */
function said({ title, version, about, least, said, runs, traces }) {
  const count = runs.reduce((sum, run) => sum + run.traces, 0);
  const from = `From the store ${title}: ${plural(count, "trace")}, by ringlens ${version}.`;
  const quiet = "It asks the network for nothing, and nobody learns that you opened it.";
  if (about === "aggregates") {
    return [
      from,
      "It holds sums over these traces: how often each expert was chosen, by phase. No text, no " +
        `token and no route of a token is in it; phases with fewer than ${least} tokens are left out.`,
      quiet,
    ];
  }
  const texts =
    "It holds the texts, every token and its probability, and the experts that each token was " +
    "routed to. Whoever has it can read all of that.";
  const routes =
    "Routes are as sensitive as texts: a model that was trained on them told 91% of the tokens " +
    "from the chosen experts alone (arXiv 2602.04105).";
  const notes = `It holds ${plural(said || 0, "annotation")}, with the names of those who wrote them.`;
  const more = "Queries in SQL and selections need the store itself: ringlens app STORE.";
  return [from, texts, ...(traces.length ? [routes] : []), ...(said ? [notes] : []), quiet, more];
}

/** @param {Index} index */
export function openAbout(index) {
  document.getElementById("about")?.remove();
  const name = "About this bundle";
  const dialog = el("dialog", "help about", null, { id: "about", "aria-label": name });
  const close = el("button", "behind-close", "×", { type: "button", "aria-label": "Close" });
  close.addEventListener("click", () => dialog.close());
  add(dialog, add(el("div", "behind-head"), el("h2", "", name), close));
  for (const text of said(index)) dialog.appendChild(el("p", "", text));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.appendChild(dialog).showModal();
}
