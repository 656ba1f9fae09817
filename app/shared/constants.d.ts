// Types of the module that constants.py makes.

/** Names of the phases; arrays of phases hold places in it. */
export const PHASES: string[];
/** Hue of each phase. */
export const PHASE_HUES: number[];
/** Hue of the first expert. */
export const START_HUE: number;
/** Part of a group's range of hues that its experts take. */
export const GROUP_SPREAD: number;
/** Colours of heatmaps, low to high. */
export const HEAT: Record<Theme, string[]>;
/** Colours of numbers on both sides of zero, low to high. */
export const DIVERGING: Record<Theme, string[]>;
/** Colours of shares that the bias made, low to high. */
export const WARM: Record<Theme, string[]>;
/** How blanks are shown. */
export const BLANKS: Record<string, string>;
/** How an empty token is shown. */
export const NOTHING: string;
/** Stands for a step that is not there. */
export const NO_STEP: number;
/** Roles of steps; arrays of roles hold places in it. */
export const ROLES: string[];
/** A quantity: what it tells, its unit, its formula and where it is from; "" where there is none. */
interface Term {
  name: string;
  meaning: string;
  unit: string;
  formula: string;
  source: string;
}
/** Quantities by name. */
export const GLOSSARY: Record<string, Term>;
