// Usage of experts in every metric and phase, as it is sent (usage_payload.py).

import { decode } from "../shared/typed_arrays.js";
import { said } from "./drawing.js";

/** @import { Counts, Sent, Usage } from "./types.js" */

/** @type {(sent: Sent) => Usage} */
const decodedUsage = (sent) => ({
  ...sent,
  values: decode(sent.values, "f4"),
  load: decode(sent.load, "f4"),
  violation: decode(sent.violation, "f4"),
  gini: decode(sent.gini, "f4"),
});

/**
 * @param {any} body
 * @returns {Counts}
 */
export function decodeCounts({ shape, phases, views, command = "" }) {
  /** @type {Map<string, ReturnType<Counts["view"]>>} */
  const kept = new Map();
  /** @type {Counts["view"]} */
  const view = (metric, phase) => {
    const name = `${metric}/${phase}`;
    const sent = views[name];
    if (!sent) return null;
    const { load, violation, gini } = phases[phase];
    const found = kept.get(name) || {
      ...decodedUsage({ ...sent, load, violation, gini }),
      ends: sent.ends,
    };
    kept.set(name, found);
    return found;
  };
  const counted = Object.entries(phases).map(([name, { tokens, n }]) => [
    name,
    { tokens, n: decode(n, "u4") },
  ]);
  return { shape, phases: Object.fromEntries(counted), view, command };
}

/**
 * A value as text, by its place; that nothing is known.
 * @param {Usage | null} usage
 * @param {number} place
 */
export const saidAt = (usage, place) =>
  usage && Number.isFinite(usage.values[place]) ? said(usage, usage.values[place]) : "–";

/**
 * The places of the largest values, largest first.
 * @param {Usage} usage
 * @param {number} most
 */
export function strongest({ values }, most) {
  const size = values.map((value) => (Number.isFinite(value) ? Math.abs(value) : -1));
  const places = Array.from(size, (_, place) => place).filter((place) => size[place] >= 0);
  return places.sort((a, b) => size[b] - size[a] || a - b).slice(0, most);
}
