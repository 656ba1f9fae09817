// The alignment as the server sends it, and what is asked of it.

import { NO_STEP } from "../shared/constants.js";
import { stepsIn } from "../shared/steps.js";
import { decode } from "../shared/typed_arrays.js";

/** @import { Alignment, Row, Side } from "./types.js" */

/**
 * @param {any} body
 * @returns {Side}
 */
const sideIn = (body) => ({ ...stepsIn(body), trace_id: body.trace_id, text: body.text });

/**
 * @param {any} body
 * @returns {Alignment}
 */
export function alignmentIn(body) {
  const sides = /** @type {[Side, Side]} */ ([sideIn(body.first), sideIn(body.second)]);
  const [first, second] = [decode(body.rows.first, "u4"), decode(body.rows.second, "u4")];
  const [distance, similarity, score] = [
    decode(body.rows.distance, "f4"),
    decode(body.rows.similarity, "f4"),
    decode(body.rows.score, "f4"),
  ];
  const placeOf = sides.map((side) => new Map(Array.from(side.step, (step, i) => [step, i])));
  /** @type {(side: number, step: number) => number} */
  const place = (side, step) => (step === NO_STEP ? -1 : (placeOf[side].get(step) ?? -1));
  /** @type {Row[]} */
  const rows = Array.from(first, (step, i) => ({
    places: [place(0, step), place(1, second[i])],
    distance: distance[i],
    similarity: similarity[i],
    score: score[i],
  }));
  return {
    sides,
    rows,
    score: body.score,
    paired: body.paired,
    meanDistance: body.mean_distance,
    gap: body.gap,
    roleWeight: body.role_weight,
    layers: body.layers,
    made: body.made,
  };
}

/** @param {Row} row */
export const isPair = ({ places }) => places[0] >= 0 && places[1] >= 0;

/**
 * The number of a row's step on a side; null where it has none.
 * @param {Alignment} found
 * @param {number} row
 * @param {0 | 1} side
 */
export const stepOf = (found, row, side) => {
  const place = found.rows[row].places[side];
  return place < 0 ? null : found.sides[side].step[place];
};

/**
 * The row of a step; -1 if it has none.
 * @param {Alignment} found
 * @param {0 | 1} side
 * @param {number | null} step
 */
export const rowOf = (found, side, step) =>
  step === null ? -1 : found.rows.findIndex((_, row) => stepOf(found, row, side) === step);

/**
 * The row of the step that a token belongs to; -1 if it has none.
 * @param {Alignment} found
 * @param {0 | 1} side
 * @param {number} pos
 */
export const rowAt = ({ rows, sides }, side, pos) =>
  rows.findIndex(({ places }) => {
    const place = places[side];
    return place >= 0 && sides[side].first[place] <= pos && pos < sides[side].end[place];
  });

/**
 * Whether a step of a row goes back.
 * @param {Alignment} found
 * @param {Row} row
 */
export const goesBack = (found, { places }) =>
  places.some((place, side) => place >= 0 && found.sides[side].backtrack[place] === 1);
