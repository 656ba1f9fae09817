// The labels that people gave experts, for every place that names one.

import { fetchJson } from "./host.js";

/** @typedef {{layer: number, expert: number, label: string, author: string}} ExpertLabel */

/** @type {Map<string, Promise<Map<string, ExpertLabel>>>} */
const known = new Map();

/** @type {Map<string, Map<string, ExpertLabel>>} */
const there = new Map();

/** Read them again when they are next asked for. */
export function forgetLabels() {
  known.clear();
}

/**
 * Read the labels of the experts of a run's model.
 * @param {string} run
 */
export function readLabels(run) {
  let found = known.get(run);
  if (!found) {
    found = fetchJson(`/data/annotations/experts?${new URLSearchParams({ run })}`).then(
      ({ rows }) => {
        const labels = new Map(
          rows.map((/** @type {ExpertLabel} */ each) => [`${each.layer}/${each.expert}`, each]),
        );
        there.set(run, labels);
        return labels;
      },
    );
    found.catch(() => known.delete(run));
    known.set(run, found);
  }
  return found;
}

/**
 * The label of an expert in words, of those that were read; "" without one.
 * @param {string} run
 * @param {number} layer
 * @param {number} expert
 */
export function labelOf(run, layer, expert) {
  const found = there.get(run)?.get(`${layer}/${expert}`);
  return found ? `“${found.label}”, says ${found.author}` : "";
}
