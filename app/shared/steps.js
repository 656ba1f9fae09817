// Steps as the server sends them (steps/listed.py), and where each that goes back leads.

import { NO_STEP, ROLES } from "./constants.js";
import { decode } from "./typed_arrays.js";

/**
 * An arc from a step that goes back: places among the steps.
 * @typedef {object} Arc
 * @property {number} from
 * @property {number} to
 * @property {boolean} named Whether the labels name where it leads.
 */

/**
 * The steps of a trace, in order: spans of tokens, roles, flags.
 * @typedef {object} Sequence
 * @property {Uint32Array} step
 * @property {Uint32Array} first
 * @property {Uint32Array} end Token after the last.
 * @property {Uint8Array} role Places among ROLES; one more than those where there is no label.
 * @property {Uint8Array} backtrack
 * @property {Uint8Array} hypothesis
 * @property {Float32Array} confidence
 * @property {Uint32Array} parent Numbers of steps; NO_STEP where none is named.
 * @property {Arc[]} arcs
 */

/**
 * @param {any} body
 * @returns {Sequence}
 */
export function stepsIn(body) {
  const steps = {
    step: decode(body.step, "u4"),
    first: decode(body.first, "u4"),
    end: decode(body.end, "u4"),
    role: decode(body.role, "u1"),
    backtrack: decode(body.backtrack, "u1"),
    hypothesis: decode(body.hypothesis, "u1"),
    confidence: decode(body.confidence, "f4"),
    parent: decode(body.parent, "u4"),
  };
  return { ...steps, arcs: arcsOf(steps) };
}

const PLAN = ROLES.indexOf("plan_generation");

/**
 * From each step that goes back, an arc: to its parent where the labels name one; else to the last
 * earlier step that proposed or planned something, which is what it abandons.
 * @param {Omit<Sequence, "arcs">} steps
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
