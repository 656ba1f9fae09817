// Beside the map: the strongest cells, or how much the expert in focus is used.

import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { plural } from "../shared/text.js";
import { METRICS, PHASE_LABELS } from "./constants.js";
import { saidAt, strongest } from "./usage.js";

/** @import { View } from "./types.js" */

const LISTED = 10;

/** @param {View} view */
export const summary = (view) =>
  view.focus.E === null ? hint(view) : expert(view, view.focus.L, view.focus.E);

/** @param {View} view */
function hint(view) {
  const { layers, experts } = view.counts.shape;
  const usage = view.counts.view(view.metric, view.phase);
  const places = usage ? strongest(usage, LISTED) : [];
  const list = el("div", "strongest");
  for (const place of places) {
    const focus = { L: layers[Math.floor(place / experts)], E: place % experts };
    const button = el("button", "", null, { type: "button" });
    add(
      button,
      el("span", "mono", `L${focus.L} · E${focus.E}`),
      el("span", "dim", `group ${groupOf(view, focus.E)}`),
      el("b", "", saidAt(usage, place)),
    );
    button.addEventListener("click", () => view.setFocus(focus, true));
    list.appendChild(button);
  }
  return add(
    el("div", "panel-hint"),
    el("h2", "", "Choose an expert"),
    el("p", "", "Click a cell, or go to one by the arrow keys, to see how much it is used."),
    el("h3", "", "Strongest in this view"),
    places.length ? list : el("p", "dim", "Nothing was recorded for this view."),
  );
}

/**
 * @param {View} view
 * @param {number} e
 */
const groupOf = ({ counts: { shape } }, e) => Math.floor(e / (shape.experts / shape.groups));

/**
 * @param {View} view
 * @param {number} layer
 * @param {number} e
 */
function expert(view, layer, e) {
  const { counts, phase } = view;
  const place = counts.shape.layers.indexOf(layer) * counts.shape.experts + e;
  const swatch = el("i", "swatch");
  swatch.style.background = colours.expertLine(e, counts.shape);
  const title = add(
    el("div", "panel-title", null, { "aria-live": "polite" }),
    swatch,
    el("h2", "", `Expert ${e}`),
    el("span", "dim", `layer ${layer} · group ${groupOf(view, e)}`),
  );
  const facts = el("div", "facts");
  for (const metric of METRICS) {
    const usage = counts.view(metric.name, phase);
    const name = termed(el("span", "dim", metric.heading), metric.term);
    const text = usage ? saidAt(usage, place) : "not recorded";
    add(facts, add(el("div", "fact"), name, el("b", "", text)));
  }
  const { n, tokens } = counts.phases[phase];
  const all = tokens.reduce((a, b) => a + b, 0);
  const chosen = `Chosen for ${n[place].toLocaleString("en")} of ${plural(all, "token")}.`;
  return add(el("div"), title, facts, phaseBars(view, place), el("p", "dim", chosen));
}

/**
 * The share of tokens that chose an expert in each phase, as bars on one scale.
 * @param {View} view
 * @param {number} place
 */
function phaseBars({ counts }, place) {
  const known = PHASES.filter((phase) => counts.phases[phase]);
  const usages = known.map((phase) => counts.view("share", phase));
  const shares = usages.map((usage) => usage?.values[place] || 0);
  const top = Math.max(...shares, 1e-9);
  const box = el("div", "phase-bars");
  known.forEach((phase, i) => {
    const fill = el("i", phase);
    fill.style.width = `${(100 * shares[i]) / top}%`;
    add(
      box,
      add(
        el("div", "phase-bar"),
        el("span", "dim", PHASE_LABELS[phase].toLowerCase()),
        add(el("span", "bar"), fill),
        el("span", "value", saidAt(usages[i], place)),
      ),
    );
  });
  return box;
}
