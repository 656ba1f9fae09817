// The steps of a trace: fetched once, found by token, and where each that goes back leads.

import { decode } from "../shared/typed_arrays.js";
import { NO_STEP, ROLES } from "./constants.js";
import { above } from "./matches.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Arc, Lacks, Steps } from "./types.js" */

/**
 * @param {Host} host
 * @param {number} trace
 * @returns {Promise<Steps | Lacks>}
 */
export async function stepsOf(host, trace) {
  const body = await host.fetchJson(`/data/trace/${trace}/steps`);
  if (body.lacks) return body;
  const steps = {
    step: decode(body.step, "u4"),
    first: decode(body.first, "u4"),
    end: decode(body.end, "u4"),
    role: decode(body.role, "u1"),
    backtrack: decode(body.backtrack, "u1"),
    hypothesis: decode(body.hypothesis, "u1"),
    confidence: decode(body.confidence, "f4"),
    parent: decode(body.parent, "u4"),
    source: body.source,
    made: body.made,
  };
  return { ...steps, arcs: arcsOf(steps) };
}

const PLAN = ROLES.indexOf("plan_generation");

/**
 * From each step that goes back, an arc: to its parent where the labels name one; else to the last
 * earlier step that proposed or planned something, which is what it abandons.
 * @param {Omit<Steps, "arcs">} steps
 * @returns {Arc[]}
 */
function arcsOf({ step, role, backtrack, hypothesis, parent }) {
  /** @type {Arc[]} */
  const arcs = [];
  let proposed = -1;
  for (let i = 0; i < step.length; i++) {
    if (backtrack[i]) {
      const named = parent[i] === NO_STEP ? -1 : step.indexOf(parent[i]);
      const to = named >= 0 ? named : proposed;
      if (to >= 0 && to < i) arcs.push({ from: i, to, named: named >= 0 });
    }
    if (hypothesis[i] || role[i] === PLAN) proposed = i;
  }
  return arcs;
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
