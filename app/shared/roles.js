// Roles of steps: their names for people, and their colours, which colour-blind people tell apart
// (Okabe and Ito 2008).

import { ROLES } from "./constants.js";
import { add, el } from "./dom.js";
import { theme } from "./theme.js";

/** @type {Record<string, [string, string, string]>} Name, colour in the dark, colour in the light. */
const LOOKS = {
  problem_setup: ["setup", "#98a1b0", "#9aa2b0"],
  plan_generation: ["plan", "#8fd3f4", "#8fd3f4"],
  fact_retrieval: ["fact", "#1fb58c", "#2cb48c"],
  active_computation: ["compute", "#4f9be0", "#4a9bdc"],
  uncertainty_management: ["doubt", "#f07b3f", "#f0803c"],
  result_consolidation: ["result", "#f0e442", "#e6d52c"],
  self_checking: ["check", "#d98cba", "#dd93bd"],
  final_answer_emission: ["answer", "#f2f3f5", "#c9b8e8"],
  unknown: ["unknown", "#4a505b", "#c6ccd6"],
};

/** @type {[string, string, string]} */
const NONE = ["no role", "#4a505b", "#c6ccd6"];

/** @param {number} role Its place among the roles. */
const look = (role) => LOOKS[ROLES[role]] || NONE;

/** @param {number} role */
export const roleName = (role) => look(role)[0];

/** @param {number} role */
export const roleColour = (role) => look(role)[theme() === "dark" ? 1 : 2];

/**
 * What the colours of some roles mean.
 * @param {Iterable<number>} roles
 */
export const roleKeys = (roles) => {
  const box = el("p", "role-legend");
  for (const role of [...new Set(roles)].sort((a, b) => a - b)) {
    const swatch = el("i", "swatch");
    swatch.style.background = roleColour(role);
    add(box, add(el("span", "role-key"), swatch, el("span", "", roleName(role))));
  }
  return box;
};
