// What people said of the expert in focus, and the labels that they gave others.

import { stripOf } from "../annotations/strip.js";
import { readLabels } from "../shared/expert_labels.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Host } from "../shared/host.js" */
/** @import { Focus, Shape } from "./types.js" */

/**
 * Read the labels of experts, which the map tells where one is pointed at; it is whole without them.
 * @param {Shape} shape
 * @param {Host} host
 */
export function readExperts({ run }, host) {
  if (run !== null) readLabels(run, host).catch(() => {});
}

/**
 * A strip of what was said of the expert in focus; null where there is none.
 * @param {Shape} shape
 * @param {Focus} focus
 * @param {Host} host
 * @returns {Strip | null}
 */
export function saidOfExpert(shape, { L, E }, host) {
  if (shape.run === null || E === null) return null;
  const about = { run_id: shape.run, layer: L, expert: E };
  return stripOf(about, host, { key: "a", changed: () => readExperts(shape, host) });
}
