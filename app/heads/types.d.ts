// What the page of heads is sent (page.py, routes.py, steps.py). L layers, H heads, S steps.

import type { Made } from "../shared/behind.js";

export interface Measure {
  name: string;
  label: string;
  unit: string;
  about: string;
  /** Its name in the glossary. */
  term: string;
  /** Whether zero is the middle of its scale. */
  signed: boolean;
  /** Whether it is compared with chance. */
  tested: boolean;
}

export interface Step {
  step: number;
  role: string | null;
  token_start: number;
  token_end: number;
  text: string;
}

export interface Boot {
  trace_id: number;
  heads: number;
  measures: Measure[];
  steps: Step[];
  heads_kept: boolean;
  command: string;
}

/** Numbers of a measure [L × H]. */
export interface HeadMap {
  layers: number[];
  heads: number;
  value: Float32Array;
  by_chance: Float32Array;
  p: Float32Array;
  q: Float32Array;
  made: Made;
}

/** Attention from each step to each [S × S]; NaN above the diagonal. */
export interface Matrix {
  numbers: number[];
  mass: Float32Array;
  made: Made;
}

export interface Head {
  layer: number;
  head: number;
}

/** A step that looks back, and one that is looked at. */
export interface Pair {
  from: number;
  to: number;
}
