// What the scripts of the page of two traces pass to one another. R rows of the alignment.

import type { Made } from "../shared/behind.js";
import type { Sequence } from "../shared/steps.js";

/** A trace of the problem. */
export interface Listed {
  trace_id: number;
  run_id: string;
  sample: number;
  correct: boolean | null;
  answer: string | null;
  mode: string;
  tokens: number;
  interventions: string;
}

/** What the page knows before it fetches anything (page.py). */
export interface Boot {
  first: number;
  second: number;
  traces: Listed[];
}

/** The steps of one trace that are aligned. */
export interface Side extends Sequence {
  trace_id: number;
  text: string[];
}

/** A row of the alignment: places among the steps of each side, -1 where there is no partner. */
export interface Row {
  places: [number, number];
  /** Of the routing; NaN without a partner. */
  distance: number;
  similarity: number;
  /** What it adds to the score. */
  score: number;
}

/** Two traces and how they are aligned. */
export interface Alignment {
  sides: [Side, Side];
  rows: Row[];
  score: number;
  /** Part of all steps that have a partner. */
  paired: number;
  /** Routing distance of all pairs of steps. */
  meanDistance: number;
  gap: number;
  roleWeight: number;
  /** Layers that are compared; null for all. */
  layers: number[] | null;
  made: Made;
}

/** What the second trace's steps give in random order. */
export interface Chance {
  null?: number;
  p?: number;
  draws?: number;
  lacks?: string;
}
