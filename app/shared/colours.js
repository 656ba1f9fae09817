// Colours of tokens and experts. OKLCH, so that equal steps look equal in both themes.

import { DIVERGING, GROUP_SPREAD, HEAT, PHASE_HUES, START_HUE, WARM } from "./constants.js";
import { theme } from "./theme.js";

/**
 * How many experts a model has, and in how many groups.
 * @typedef {{experts: number, groups: number}} Shape
 */

/** Steps of a ramp. */
export const BINS = 32;
const dark = () => theme() === "dark";

// Hue of each metric's ramp; nothing at the calm end, colour at the end that matters.
/** @type {Record<string, number>} */
const HUES = { entropy: 62, logprob: 18, margin: 295, attention: 205 };

/**
 * @param {number} hue
 * @param {number} t
 */
const step = (hue, t) =>
  dark()
    ? `oklch(${0.37 + 0.115 * t} ${0.09 + 0.05 * t} ${hue} / ${Math.min(1, 1.25 * t)})`
    : `oklch(${0.93 - 0.17 * t} ${0.05 + 0.1 * t} ${hue} / ${Math.min(1, 1.5 * t)})`;

/**
 * Background of a token for a metric, as a table by bin.
 * @param {string} metric
 */
export const ramp = (metric) =>
  Array.from({ length: BINS }, (_, bin) =>
    bin === 0 ? "transparent" : step(HUES[metric], bin / (BINS - 1)),
  );

/**
 * Colour of a metric's profile.
 * @param {string} metric
 */
export const line = (metric) =>
  dark() ? `oklch(0.72 0.14 ${HUES[metric]})` : `oklch(0.62 0.15 ${HUES[metric]})`;

/** Background of a token for its phase, as a table by phase. */
export const phases = () =>
  PHASE_HUES.map((hue) => (dark() ? `oklch(0.40 0.075 ${hue})` : `oklch(0.90 0.06 ${hue})`));

/**
 * Colour of a phase's band.
 * @param {number} phase
 */
export const phaseLine = (phase) =>
  dark() ? `oklch(0.68 0.12 ${PHASE_HUES[phase]})` : `oklch(0.60 0.13 ${PHASE_HUES[phase]})`;

/** Colour of what was found in a text. */
export const found = () => (dark() ? "oklch(0.78 0.13 230)" : "oklch(0.58 0.17 250)");

/**
 * Experts of a group share a range of hues; neighbours in it differ in lightness.
 * @param {number} expert
 * @param {Shape} shape
 */
const expertHue = (expert, shape) => {
  const size = shape.experts / shape.groups;
  const group = Math.floor(expert / size);
  const inside = (expert % size) / size;
  return (START_HUE + (360 * (group + GROUP_SPREAD * inside)) / shape.groups) % 360;
};

/**
 * @param {number} expert
 * @param {Shape} shape
 */
export const expertFill = (expert, shape) => {
  const lift = expert % 2 ? 0.05 : 0;
  const hue = expertHue(expert, shape);
  return dark() ? `oklch(${0.4 + lift} 0.085 ${hue})` : `oklch(${0.86 + lift} 0.075 ${hue})`;
};

/**
 * @param {number} expert
 * @param {Shape} shape
 */
export const expertLine = (expert, shape) => {
  const lift = expert % 2 ? 0.05 : 0;
  const hue = expertHue(expert, shape);
  return dark() ? `oklch(${0.7 + lift} 0.13 ${hue})` : `oklch(${0.58 + lift} 0.14 ${hue})`;
};

/**
 * @param {string} a
 * @param {string} b
 * @param {number} t
 */
const mix = (a, b, t) => {
  /** @type {(hex: string, i: number) => number} */
  const channel = (hex, i) => Number.parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const parts = [0, 1, 2].map((i) => Math.round(channel(a, i) * (1 - t) + channel(b, i) * t));
  return `rgb(${parts.join(", ")})`;
};

/**
 * A scale as 64 colours.
 * @param {string[]} stops
 */
export const scaleOf = (stops) =>
  Array.from({ length: 64 }, (_, i) => {
    const at = (i / 63) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    return mix(stops[low], stops[low + 1], at - low);
  });

/** Scale of small heatmaps, the same as the routing heatmap's. */
export const heat = () => scaleOf(HEAT[theme()]);

/** Colours of numbers on both sides of zero, as a table. */
export const diverging = () => scaleOf(DIVERGING[theme()]);

/** Colours of shares that the bias made, as a table. */
export const warm = () => scaleOf(WARM[theme()]);
