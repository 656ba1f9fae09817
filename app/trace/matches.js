// Places of a text in a trace, and places to jump to: entropy peaks and phases. No page here.

import { quantile } from "./metrics.js";

/** @import { Matches, Tokens } from "./types.js" */

const PEAK = 0.95; // quantile that a peak reaches
const NEAR = 4; // tokens on each side that are no higher

/** @type {Matches} */
export const NO_MATCHES = { query: "", starts: new Uint32Array(), ends: new Uint32Array() };

/**
 * All places of a text, whatever the case of its letters; they may cross borders of tokens.
 * @param {string} text
 * @param {string} query
 * @returns {Matches}
 */
export const matchesOf = (text, query) => {
  if (!query) return NO_MATCHES;
  const pattern = new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
  /** @type {number[]} */
  const starts = [];
  /** @type {number[]} */
  const ends = [];
  for (const match of text.matchAll(pattern)) {
    starts.push(match.index);
    ends.push(match.index + match[0].length);
  }
  return { query, starts: Uint32Array.from(starts), ends: Uint32Array.from(ends) };
};

/**
 * The first place in ascending numbers whose number is larger.
 * @param {ArrayLike<number>} sorted
 * @param {number} value
 */
export const above = (sorted, value) => {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
};

/**
 * Tokens that were hardest to choose: entropy at or above the 95th percentile of what the model
 * wrote, and no higher one within four tokens.
 * @param {Tokens} data
 */
export const peaksOf = ({ entropy, phase }) => {
  const own = entropy.map((x, i) => (phase[i] ? x : Number.NaN));
  const least = quantile(own, PEAK);
  /** @type {number[]} */
  const found = [];
  for (let i = 0; i < own.length; i++) {
    if (!(own[i] > 0 && own[i] >= least)) continue;
    const around = own.subarray(Math.max(0, i - NEAR), i + NEAR + 1);
    const last = found.length ? found[found.length - 1] : -1 - NEAR;
    if (!around.some((x) => x > own[i]) && i - last > NEAR) found.push(i);
  }
  return found;
};

/**
 * First token of each phase.
 * @param {Tokens} data
 */
export const phaseStarts = ({ phase }) => {
  /** @type {number[]} */
  const found = [];
  for (let i = 0; i < phase.length; i++) if (i === 0 || phase[i] !== phase[i - 1]) found.push(i);
  return found;
};

/**
 * The nearest of some tokens after, or before, the focused one; null if there is none.
 * @param {number[]} places Ascending.
 * @param {number | null} pos
 * @param {1 | -1} by
 */
export const stepTo = (places, pos, by) => {
  const at =
    by > 0 ? above(places, pos ?? -1) : above(places, (pos ?? Number.POSITIVE_INFINITY) - 1) - 1;
  return places[at] ?? null;
};
