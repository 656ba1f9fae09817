// The steps of a trace: fetched once, and found by token.

import { stepsIn } from "../shared/steps.js";
import { above } from "./matches.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Lacks, Steps } from "./types.js" */

/**
 * @param {Host} host
 * @param {number} trace
 * @returns {Promise<Steps | Lacks>}
 */
export async function stepsOf(host, trace) {
  const body = await host.fetchJson(`/data/trace/${trace}/steps`);
  if (body.lacks) return body;
  return { ...stepsIn(body), source: body.source, made: body.made };
}

/**
 * The place of the step that a token belongs to; -1 outside steps.
 * @param {Steps | null} steps
 * @param {number | null} pos
 */
export function stepAt(steps, pos) {
  if (!steps || pos === null) return -1;
  const at = above(steps.first, pos) - 1;
  return at >= 0 && pos < steps.end[at] ? at : -1;
}

/**
 * First token of the step after or before that of a token; null where there is none.
 * @param {Steps} steps
 * @param {number | null} pos
 * @param {1 | -1} by
 */
export function stepBeside(steps, pos, by) {
  const last = steps.first.length - 1;
  const before = pos === null ? -1 : above(steps.first, pos) - 1;
  // Back from inside a step leads to its own beginning first.
  const inside = pos !== null && before >= 0 && steps.first[before] < pos;
  const to = by > 0 ? before + 1 : inside ? before : before - 1;
  return to < 0 || to > last ? null : steps.first[to];
}
