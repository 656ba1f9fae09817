// What the colours of the text mean.

import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { number, plural } from "../shared/text.js";
import { closer, named } from "./attention.js";
import { attends, METRICS } from "./metrics.js";
import { cardOf } from "./routing.js";

/** @import { Bands, Ramp, View } from "./types.js" */

const SHOWN = 5; // experts, the most frequent

/** @param {View} view */
export function drawLegend(view) {
  const { legend, paint } = view;
  legend.replaceChildren();
  if (!paint) return;
  if (attends(view) && paint.kind === "ramp") return attention(legend, paint, view);
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
 * The weights of a head, from 0 to the largest.
 * @param {HTMLElement} legend
 * @param {Ramp} paint
 * @param {View} view
 */
function attention(legend, paint, view) {
  if (!view.head) return;
  legend.title = `attention weight of the head, from token #${view.pos}`;
  legend.appendChild(el("span", "legend-head", named(view.head), { "data-pos": `${view.pos}` }));
  if (view.sources?.of === "nothing") legend.appendChild(el("span", "gaps", "not recorded"));
  else
    add(
      legend,
      el("span", "", "0"),
      bar(paint),
      el("span", "", number(paint.top, paint.top < 0.1 ? 3 : 2)),
    );
  legend.appendChild(closer(view));
}

/** @param {Ramp} paint */
function bar(paint) {
  const found = el("span", "legend-bar");
  const stops = [4, 12, 20, 28, 31].map((bin) => paint.palette[bin]);
  found.style.background = `linear-gradient(90deg, transparent, ${stops.join(", ")})`;
  return found;
}

/**
 * @param {HTMLElement} legend
 * @param {Ramp} paint
 * @param {string} unit
 */
function scale(legend, paint, unit) {
  const top = number(paint.top, paint.top < 1 ? 2 : 1);
  const [low, high] = paint.reversed ? [`≥ ${top}`, "0"] : ["0", `≥ ${top}`];
  add(legend, el("span", "", low), bar(paint), el("span", "", `${high} ${unit}`));
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
  if (view.only !== null && view.layer !== null) {
    const address = cardOf(view.layer, view.only, view.boot);
    legend.appendChild(view.host.link(address, "expert-link", `Card of E${view.only}`));
  }
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
