// What the address asks the comparison to show.

import { intParam, param } from "../shared/address.js";

/** @import { Contrast } from "./types.js" */

/** False discovery rates that can be asked for; "" shows all cells. */
export const RATES = ["", "0.05", "0.1"];

/** What the address asks for. */
export const state = () => ({
  equal: param("within") === "token",
  rate: RATES.includes(param("fdr") || "") ? param("fdr") || "" : "",
  nothing: param("null") === "1",
  group: intParam("group") ?? 0,
});

/**
 * Place of the group that is shown.
 * @param {Contrast | null} contrast
 */
export const groupAt = (contrast) =>
  Math.max(0, Math.min(state().group, (contrast?.groups.length || 1) - 1));
