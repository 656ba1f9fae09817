// The bar under the ribbon: find a text, go to the next entropy peak, to the next phase.

import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { plural } from "../shared/text.js";
import { peaksOf, phaseStarts, stepTo } from "./matches.js";
import { lacks } from "./metrics.js";

/** @import { View, Ways } from "./types.js" */

/**
 * A button that goes somewhere.
 * @param {string} text
 * @param {string} title
 * @param {() => void} act
 */
function stepButton(text, title, act) {
  const button = el("button", "step", text, { type: "button", title, "aria-label": title });
  button.addEventListener("click", act);
  return button;
}

/**
 * @param {View} view
 * @returns {Ways}
 */
export function traceWays(view) {
  const node = el("div", "ways", null, { role: "search", "aria-label": "Find one's way" });
  const box = el("input", "find-box", null, {
    type: "search",
    id: "find",
    placeholder: "Find in the text",
    "aria-label": "Find in the text",
    "aria-describedby": "find-count",
    autocomplete: "off",
    spellcheck: "false",
  });
  const count = el("span", "find-count", null, { id: "find-count", role: "status" });
  const peaks = peaksOf(view.data);
  const phases = phaseStarts(view.data);

  function show() {
    const found = view.found.starts.length;
    if (box !== document.activeElement) box.value = view.found.query;
    box.classList.toggle("none", view.found.query !== "" && !found);
    const place = view.foundAt === null ? null : `${(view.foundAt + 1).toLocaleString("en")} of `;
    if (!view.found.query) count.textContent = "";
    else if (!found) count.textContent = "not found";
    else if (place) count.textContent = place + found.toLocaleString("en");
    else count.textContent = plural(found, "place");
    for (const button of finders) button.disabled = !found;
  }

  /** @param {1 | -1} by */
  const finder = (by) =>
    stepButton(
      by > 0 ? "↓" : "↑",
      `${by > 0 ? "next" : "previous"} place (${by > 0 ? "" : "Shift+"}Enter)`,
      () => view.stepFound(by),
    );
  const finders = [finder(-1), finder(1)];

  /** @param {1 | -1} by */
  function toPeak(by) {
    const pos = stepTo(peaks, view.pos, by);
    if (pos !== null) view.setPos(pos, true);
  }

  /** @param {1 | -1} by */
  function toPhase(by) {
    const pos = stepTo(phases, view.pos, by);
    if (pos !== null) view.setPos(pos, true);
  }

  /**
   * A name between two buttons.
   * @param {string} term
   * @param {string} label
   * @param {[string, string]} keys
   * @param {(by: 1 | -1) => void} go
   * @param {string | null} why Why it is off.
   */
  function stepper(term, label, keys, go, why) {
    const parts = [/** @type {const} */ (-1), /** @type {const} */ (1)].map((by) => {
      const key = keys[by > 0 ? 1 : 0];
      const title = why || `${by > 0 ? "next" : "previous"} ${label} (${key})`;
      const button = stepButton(by > 0 ? "›" : "‹", title, () => go(by));
      button.disabled = why !== null;
      return button;
    });
    return add(el("span", "stepper"), parts[0], termed(el("span", "", label), term), parts[1]);
  }

  box.addEventListener("input", () => view.setFound(box.value));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter") view.stepFound(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") {
      view.setFound("");
      box.value = "";
      box.blur();
    } else return;
    event.preventDefault();
  });

  const noPeaks = lacks(view.boot, "entropy") || (peaks.length ? null : "no token was uncertain");
  add(
    node,
    add(el("span", "find"), box, el("kbd", "", "/")),
    ...finders,
    count,
    el("span", "spacer"),
    stepper("entropy peak", "entropy peak", [",", "."], toPeak, noPeaks),
    stepper("phase", "phase", ["{", "}"], toPhase, null),
  );
  return { node, show, toPeak, toPhase, focus: () => box.select() };
}
