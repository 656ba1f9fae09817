// The labels that people gave experts, for every place that names one.

import { server } from "./host.js";

/** @import { Host } from "./host.js" */

/** @typedef {{layer: number, expert: number, label: string | null, author: string}} ExpertLabel */

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
 * @param {Host} [host]
 */
export function readLabels(run, host = server) {
  let found = known.get(run);
  if (!found) {
    const path = `/data/annotations/experts?${new URLSearchParams({ run })}`;
    found = host.fetchJson(path).then(({ rows }) => {
      /** @type {Map<string, ExpertLabel>} */
      const labels = new Map();
      // The latest stands, where a copy has all that was said.
      for (const each of rows) if (each.label) labels.set(`${each.layer}/${each.expert}`, each);
      there.set(run, labels);
      return labels;
    });
    found.catch(() => known.delete(run));
    known.set(run, found);
  }
  return found;
}

/**
 * The label of an expert in words, of those that were read; "" without one.
 * @param {string | null} run
 * @param {number} layer
 * @param {number} expert
 */
export function labelOf(run, layer, expert) {
  const found = there.get(run ?? "")?.get(`${layer}/${expert}`);
  return found ? `“${found.label}”, says ${found.author}` : "";
}
