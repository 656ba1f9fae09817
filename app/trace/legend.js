// What the colours of the text mean.

import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { number, plural } from "../shared/text.js";
import { METRICS } from "./metrics.js";

/** @import { Bands, Ramp, View } from "./types.js" */

const SHOWN = 5; // experts, the most frequent

/** @param {View} view */
export function drawLegend(view) {
  const { legend, paint } = view;
  legend.replaceChildren();
  if (!paint) return;
  const metric = METRICS.find((each) => each.id === view.metric) || METRICS[0];
  legend.title = metric.says;
  if (paint.kind === "ramp") scale(legend, paint, metric.unit);
  else if (paint.kind === "expert") experts(legend, paint, view);
  else add(legend, ...PHASES.map((name, i) => key("span", name, paint.palette[i])));
  if (paint.unknown) {
    const gaps = `gaps: not recorded for ${plural(paint.unknown, "token")}`;
    legend.appendChild(el("span", "gaps", gaps));
  }
}

/**
 * @param {HTMLElement} legend
 * @param {Ramp} paint
 * @param {string} unit
 */
function scale(legend, paint, unit) {
  const bar = el("span", "legend-bar");
  const stops = [4, 12, 20, 28, 31].map((bin) => paint.palette[bin]);
  bar.style.background = `linear-gradient(90deg, transparent, ${stops.join(", ")})`;
  const top = number(paint.top, paint.top < 1 ? 2 : 1);
  const [low, high] = paint.reversed ? [`≥ ${top}`, "0"] : ["0", `≥ ${top}`];
  add(legend, el("span", "", low), bar, el("span", "", `${high} ${unit}`));
}

/**
 * @param {HTMLElement} legend
 * @param {Bands} paint
 * @param {View} view
 */
function experts(legend, paint, view) {
  const counts = new Map();
  for (const expert of paint.bins) {
    if (expert < view.boot.experts) counts.set(expert, (counts.get(expert) || 0) + 1);
  }
  const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  for (const [expert, count] of top) {
    const button = key("button", `E${expert}`, colours.expertLine(expert, view.boot));
    button.setAttribute("type", "button");
    button.setAttribute("aria-pressed", String(view.only === expert));
    button.title = `heaviest for ${count} tokens; click to show only these`;
    button.addEventListener("click", () => view.setOnly(view.only === expert ? null : expert));
    legend.appendChild(button);
  }
  if (counts.size > top.length) {
    legend.appendChild(el("span", "dim", `+${counts.size - top.length}`));
  }
}

/**
 * A name with its colour.
 * @param {"span" | "button"} tag
 * @param {string} name
 * @param {string} colour
 */
function key(tag, name, colour) {
  const swatch = el("i", "swatch");
  swatch.style.background = colour;
  const found = el(tag, "key", name);
  found.prepend(swatch);
  return found;
}
