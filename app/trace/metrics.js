// What tokens can be coloured by, and how each becomes bins and a palette.

import * as colours from "../shared/colours.js";
import { paintOfHead } from "./attention.js";

/** @import { Boot, Bands, Paint, Ramp, View } from "./types.js" */

/** Metrics, in the order of their keys; of each its name in the glossary, and what is special here. */
export const METRICS = [
  {
    id: "entropy",
    label: "Entropy",
    term: "entropy",
    unit: "nats",
    says: "how open the choice of a token was; the prompt was not chosen and stays plain",
  },
  {
    id: "logprob",
    label: "Surprise",
    term: "surprise",
    unit: "nats",
    says: "−logprob of a token; the prompt was not chosen and stays plain",
  },
  {
    id: "margin",
    label: "Margin",
    term: "margin",
    unit: "",
    says: "mean router margin; coloured where contested",
  },
  { id: "expert", label: "Expert", term: "heaviest expert", unit: "", says: "of one layer" },
  { id: "phase", label: "Phase", term: "phase", unit: "", says: "prompt, think, answer" },
];

/**
 * Why a metric cannot be shown of a trace; null where it can.
 * @param {Boot} boot
 * @param {string} id
 */
export const lacks = (boot, id) => {
  if (id === "phase" || boot.recorded[id]) return null;
  if (id === "entropy" || id === "logprob") {
    return boot.mode === "imported"
      ? `not recorded: the server reported no ${id === "logprob" ? "log-probabilities" : "entropy"}`
      : "not recorded: this run left log-probabilities out (record logprobs)";
  }
  return boot.has_routing
    ? "not recorded: this run was imported; which experts were chosen is known, not with what weight"
    : "not recorded: this run left routing out (record routing)";
};

/**
 * How the view's metric, or its head, is painted; null until its data are there.
 * @param {View} view
 * @returns {Paint | null}
 */
export const paintOf = (view) => {
  const { data, metric } = view;
  if (attends(view)) return view.sources && paintOfHead(view.sources, view.count);
  if (metric === "entropy") return generated(view, data.entropy);
  if (metric === "logprob") return generated(view, data.surprise);
  if (metric === "phase") {
    return { kind: "phase", bins: data.phase, palette: colours.phases(), unknown: 0 };
  }
  if (metric === "expert") return experts(view);
  if (!data.margin) return null;
  const top = quantile(data.margin, 0.5) || 1;
  return { ...ramp(view, data.margin, top, (x) => 1 - x / top), reversed: true };
};

/**
 * Whether the text shows what a head attends to: from the focused token, so there must be one.
 * @param {View} view
 */
export const attends = (view) => view.head !== null && view.pos !== null;

/**
 * @param {View} view
 * @returns {Bands | null}
 */
const experts = (view) => {
  const layer = view.layer === null ? undefined : view.layers.get(view.layer);
  if (!layer) return null;
  const { boot, only } = view;
  const palette = Array.from({ length: boot.experts }, (_, expert) =>
    only === null || only === expert ? colours.expertFill(expert, boot) : "transparent",
  );
  const unknown = count(layer.expert, (expert) => expert >= boot.experts);
  return { kind: "expert", bins: layer.expert, palette, unknown };
};

/**
 * What the model chose: the prompt it did not, so it stays plain and has no say in the scale.
 * @param {View} view
 * @param {Float32Array} values
 */
const generated = (view, values) => {
  const { phase } = view.data;
  const own = values.map((x, i) => (phase[i] ? x : Number.NaN));
  const unknown = count(values, (x, i) => phase[i] > 0 && Number.isNaN(x));
  const top = Math.max(0.05, quantile(own, 0.99));
  return { ...ramp(view, own, top, (x) => x / top), unknown };
};

/**
 * @param {View} view
 * @param {Float32Array} values
 * @param {number} top
 * @param {(x: number) => number} position
 * @returns {Ramp}
 */
const ramp = (view, values, top, position) => ({
  kind: "ramp",
  of: view.metric,
  bins: binned(values, position),
  palette: colours.ramp(view.metric),
  values,
  unknown: count(values, Number.isNaN),
  top,
  reversed: false,
});

/**
 * Bins of a number per token: 0 is calm, BINS - 1 is the end of the domain.
 * @param {Float32Array} values
 * @param {(x: number) => number} position
 */
const binned = (values, position) => {
  const bins = new Uint16Array(values.length);
  const last = colours.BINS - 1;
  for (let i = 0; i < values.length; i++) {
    const t = Number.isFinite(values[i]) ? position(values[i]) : 0;
    bins[i] = Math.round(Math.max(0, Math.min(1, t)) * last);
  }
  return bins;
};

/**
 * The q-quantile of the numbers that are known; 0 if none is.
 * @param {Float32Array} values
 * @param {number} q
 */
export const quantile = (values, q) => {
  const finite = values.filter(Number.isFinite).sort();
  return finite.length ? finite[Math.min(finite.length - 1, Math.floor(q * finite.length))] : 0;
};

/**
 * @param {Float32Array | Uint16Array} values
 * @param {(x: number, i: number) => boolean} fits
 */
const count = (values, fits) => {
  let found = 0;
  for (let i = 0; i < values.length; i++) if (fits(values[i], i)) found++;
  return found;
};
