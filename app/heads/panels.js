// What is drawn of a trace's heads: the map of layers × heads, the steps, and those in focus.

import { behindButton } from "../shared/behind.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { gridMap, legend } from "../shared/grid_map.js";
import { link } from "../shared/host.js";
import { number, percent } from "../shared/text.js";

/** @import { Behind } from "../shared/behind.js" */
/** @import { Place } from "../shared/grid_map.js" */
/** @import { Head, Measure, Pair, Step } from "./types.js" */
/** @typedef {import("./page.js").View} View */

/**
 * @typedef {object} Acts
 * @property {(head: Head | null) => void} setHead
 * @property {(measure: string) => void} setMeasure
 * @property {(pair: Pair | null) => void} setPair
 * @property {(step: number) => string} placeOf
 */

const FOUND = 0.05; // q-value up to which heads are marked
const [MAP, ROWS] = [0.36, 0.62]; // heights, of the window's, at most
const [THICK, SQUARE] = [44, 80]; // heights of a row, at most

/**
 * The end of a scale: a quantile, so that a few outliers do not make all else pale.
 * @param {number[]} values
 */
const edgeOf = (values) => {
  const sizes = values
    .filter(Number.isFinite)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes[Math.ceil(0.99 * (sizes.length - 1))] || 1e-6;
};

/** @param {number} value */
const short = (value) => number(value, Math.abs(value) < 10 ? 3 : 1);

/**
 * @param {View} v
 * @param {Acts} acts
 */
export function panels(v, acts) {
  const { boot } = v;
  const node = el("div", "heads-body");
  const tip = el("div", "tip", null, { hidden: "" });
  const most = (/** @type {number} */ part) => part * window.innerHeight;

  const map = gridMap(
    "A number per layer and head; the keys [ ] and arrows choose a head",
    (grid) => Math.max(1, Math.min(THICK, Math.floor(most(MAP) / grid.rows.length))),
    (at) => {
      const head = { layer: v.map?.layers[at.row] ?? 0, head: at.column };
      const again = v.head?.layer === head.layer && v.head.head === head.head;
      acts.setHead(again ? null : head);
    },
    pointMap,
  );
  const steps = gridMap(
    "Attention from each step, in rows, to each earlier one; the keys j k J K choose a pair",
    (grid, w) => Math.min(SQUARE, most(ROWS) / grid.rows.length, w / grid.columns.length),
    (at) => {
      const numbers = v.matrix?.numbers || [];
      const pair = { from: numbers[at.row], to: numbers[at.column] };
      if (at.column <= at.row) acts.setPair(pair);
    },
    pointSteps,
  );
  const mapHead = el("h2", "map-head");
  const stepsHead = el("h2", "map-head");
  const about = el("p", "dim heads-about", null, { role: "status" });
  const focus = el("div", "pair-card", null, { "aria-live": "polite" });
  const stepsBox = el("section", "heads-steps", null, { "aria-label": "Steps" });
  const left = add(
    el("section", "heads-left", null, { "aria-label": "Heads" }),
    chooser(),
    mapHead,
    map.node,
    about,
    focus,
  );
  add(stepsBox, stepsHead, boot.steps.length ? steps.node : missing());
  add(node, left, stepsBox, tip);

  // --- what is chosen -------------------------------------------------------------------------

  function chooser() {
    const select = el("select", "group-choice", null, { id: "measure", "aria-label": "Measure" });
    for (const each of boot.measures) {
      add(select, el("option", "", each.label, { value: each.name }));
    }
    select.addEventListener("change", () => acts.setMeasure(select.value));
    const mean = el("button", "button", "Mean of all heads", { type: "button", "data-mean": "" });
    mean.addEventListener("click", () => acts.setHead(null));
    return add(el("div", "heads-bar"), el("span", "label", "Show"), select, mean);
  }

  /** What stands in place of the steps where nothing is known of them. */
  function missing() {
    const copy = el("button", "copy", "Copy", { type: "button", "data-copy": boot.command });
    const box = add(el("div", "command"), el("code", "", boot.command), copy);
    const title = el("h2", "", "Which steps look at which is not known yet");
    const text =
      "The probe “receivers” reads the trace again with the model, and keeps what each step pays to each earlier one.";
    return add(el("div", "state"), title, el("p", "", text), box);
  }

  const measure = () =>
    /** @type {Measure} */ (boot.measures.find((each) => each.name === v.measure));

  // --- drawing --------------------------------------------------------------------------------

  function draw() {
    const select = node.querySelector("select");
    if (select) select.value = v.measure;
    drawMap();
    drawSteps();
    drawPair();
  }

  function drawMap() {
    mapHead.replaceChildren();
    if (v.mapError) return mapHead.replaceChildren(el("span", "error", v.mapError));
    if (!v.map) {
      about.textContent = boot.measures.length
        ? "Reading…"
        : "No statistics of heads are recorded.";
      return;
    }
    const { layers, heads, value, q } = v.map;
    const { label, unit, signed } = measure();
    const top = edgeOf(Array.from(value));
    const scale = signed ? colours.diverging() : colours.heat();
    const low = signed ? -top : 0;
    /** @param {number} i */
    const fill = (i) => {
      if (!Number.isFinite(value[i])) return null;
      const at = Math.max(0, Math.min(1, (value[i] - low) / (top - low)));
      return scale[Math.round((scale.length - 1) * at)];
    };
    const row = v.head ? layers.indexOf(v.head.layer) : -1;
    map.show({
      rows: layers.map((layer) => `L${layer}`),
      columns: Array.from({ length: heads }, (_, h) => `${h}`),
      fill,
      marked: (i) => q[i] <= FOUND,
      focus: v.head && row >= 0 ? { row, column: v.head.head } : null,
    });
    add(
      mapHead,
      termed(el("span", "", label), measure().term),
      el("span", "spacer"),
      legend(short(low), `${short(top)} ${unit}`, scale),
      behindButton(label, mapBehind),
    );
    tell();
  }

  /** Say what the map shows, and of the head in focus how it compares with chance. */
  function tell() {
    const found = v.map ? v.map.q.filter((q) => q <= FOUND).length : 0;
    let text = `${measure().about}. Rows: layers; columns: heads.`;
    if (measure().tested) {
      text += ` Dots: beyond chance at q ≤ ${FOUND} over all heads of this trace (${found}).`;
    }
    const i = v.head && v.map ? placeOfHead(v.head) : -1;
    if (v.head && v.map && i >= 0) {
      text += ` L${v.head.layer} head ${v.head.head}: ${short(v.map.value[i])}${measure().unit && ` ${measure().unit}`}`;
      if (measure().tested && Number.isFinite(v.map.q[i])) {
        text += `, by chance ${short(v.map.by_chance[i])}, q = ${number(v.map.q[i], 3)}`;
      }
    }
    about.textContent = text.trim();
  }

  /** @param {Head} head */
  function placeOfHead(head) {
    if (!v.map) return -1;
    const row = v.map.layers.indexOf(head.layer);
    return row < 0 ? -1 : row * v.map.heads + head.head;
  }

  /** Whose attention between steps is shown. */
  function whose() {
    if (!v.head) return "mean over all layers and heads";
    if (!boot.heads_kept) return `layer ${v.head.layer}, mean over its heads (others are not kept)`;
    return `layer ${v.head.layer}, head ${v.head.head}`;
  }

  function drawSteps() {
    stepsHead.replaceChildren();
    if (v.matrixError) return stepsHead.replaceChildren(el("span", "error", v.matrixError));
    if (!boot.steps.length) return;
    const title = termed(el("span", "", "Which steps look at which"), "attention between steps");
    add(stepsHead, title, el("span", "dim", whose()), el("span", "spacer"));
    if (!v.matrix) return add(stepsHead, el("span", "dim", "Reading…"));
    const { numbers, mass } = v.matrix;
    const S = numbers.length;
    // What a step pays to itself would make all else pale.
    const apart = Array.from(mass).filter((_, i) => Math.floor(i / S) !== i % S);
    const top = edgeOf(apart);
    const scale = colours.heat();
    const [row, column] = v.pair
      ? [numbers.indexOf(v.pair.from), numbers.indexOf(v.pair.to)]
      : [-1, -1];
    steps.show({
      rows: numbers.map(String),
      columns: numbers.map(String),
      fill: (i) =>
        Number.isFinite(mass[i])
          ? scale[Math.round((scale.length - 1) * Math.min(1, mass[i] / top))]
          : null,
      focus: row >= 0 && column >= 0 ? { row, column } : null,
    });
    add(
      stepsHead,
      legend("0", `${percent(top)} of attention`, scale),
      behindButton("Which steps look at which", stepsBehind),
    );
  }

  /** @param {number} n */
  const stepOf = (n) => /** @type {Step} */ (boot.steps.find((each) => each.step === n));

  /** @param {Pair} pair */
  function massOf({ from, to }) {
    if (!v.matrix) return Number.NaN;
    const { numbers, mass } = v.matrix;
    return mass[numbers.indexOf(from) * numbers.length + numbers.indexOf(to)];
  }

  function drawPair() {
    if (!boot.steps.length) return;
    if (!v.pair) {
      const text = "Click a cell of the steps, or press j, to read the two steps.";
      return focus.replaceChildren(el("p", "dim", text));
    }
    const mass = percent(massOf(v.pair));
    const head = el("h2", "", `Step ${v.pair.from} pays ${mass} to step ${v.pair.to}`);
    focus.replaceChildren(head, said("looks back", v.pair.from), said("is looked at", v.pair.to));
  }

  /**
   * @param {string} what
   * @param {number} n
   */
  function said(what, n) {
    const step = stepOf(n);
    const role = step.role ? `, ${step.role.replaceAll("_", " ")}` : "";
    const place = link(acts.placeOf(n), "step-link", `Step ${n} on the trace`);
    const line = add(el("div", "step-said"), place, el("span", "dim", `${what}${role}`));
    const chips = v.said.chipsOf(step.token_start, step.token_end);
    const list = chips.length ? add(el("div", "step-said-list"), ...chips) : null;
    return add(el("div", "step-box"), line, list, el("p", "step-text", step.text));
  }

  // --- pointer --------------------------------------------------------------------------------

  /**
   * @param {string[]} lines
   * @param {PointerEvent} event
   */
  function showTip(lines, event) {
    tip.hidden = !lines.length;
    tip.replaceChildren(...lines.map((line, i) => el("div", i ? "dim" : "", line)));
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 12);
    const fits = event.clientY + 14 + tip.offsetHeight < window.innerHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${fits ? event.clientY + 14 : event.clientY - tip.offsetHeight - 10}px`;
  }

  /**
   * @param {Place | null} at
   * @param {PointerEvent} event
   */
  function pointMap(at, event) {
    if (!at || !v.map) return showTip([], event);
    const i = at.row * v.map.heads + at.column;
    const value = v.map.value[i];
    const lines = [
      `L${v.map.layers[at.row]} head ${at.column}: ${Number.isNaN(value) ? "not known" : short(value)}`,
    ];
    if (Number.isFinite(v.map.q[i])) {
      lines.push(`by chance ${short(v.map.by_chance[i])}, q = ${number(v.map.q[i], 3)}`);
    }
    showTip(lines, event);
  }

  /**
   * @param {Place | null} at
   * @param {PointerEvent} event
   */
  function pointSteps(at, event) {
    if (!at || !v.matrix || at.column > at.row) return showTip([], event);
    const pair = { from: v.matrix.numbers[at.row], to: v.matrix.numbers[at.column] };
    showTip([`step ${pair.from} → ${pair.to}: ${percent(massOf(pair))}`], event);
  }

  // --- behind ---------------------------------------------------------------------------------

  /** @returns {Behind | null} */
  function mapBehind() {
    if (!v.map) return null;
    const { layers, heads, value, by_chance, p, q, made } = v.map;
    const more = measure().tested ? [by_chance, p, q] : [];
    return {
      title: `${measure().label} of the heads of trace ${boot.trace_id}`,
      name: `heads-${boot.trace_id}-${measure().name.replace(/\W+/g, "-")}`,
      about: `${measure().about}${measure().unit && ` (${measure().unit})`}.`,
      columns: ["layer", "head", "value", ...(more.length ? ["by chance", "p", "q"] : [])],
      rows: () =>
        Array.from(value, (x, i) => [
          layers[Math.floor(i / heads)],
          i % heads,
          Number.isFinite(x) ? x : null,
          ...more.map((each) => (Number.isFinite(each[i]) ? each[i] : null)),
        ]),
      made,
      draw: (c, w) => map.draw(c, w),
      size: [720, map.height(720)],
    };
  }

  /** @returns {Behind | null} */
  function stepsBehind() {
    if (!v.matrix) return null;
    const { numbers, mass, made } = v.matrix;
    const S = numbers.length;
    return {
      title: `Which steps look at which: ${whose()}`,
      name: `heads-${boot.trace_id}-steps`,
      about:
        "Attention weight of a token of the first step on all tokens of the second, mean over the tokens of the first.",
      columns: ["step from", "step to", "mass"],
      rows: () =>
        numbers.flatMap((from, i) =>
          numbers.slice(0, i + 1).map((to, j) => [from, to, mass[i * S + j]]),
        ),
      made,
      draw: (c, w) => steps.draw(c, w),
      size: [720, steps.height(720)],
    };
  }

  return { node, draw };
}
