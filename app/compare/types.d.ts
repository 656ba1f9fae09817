// What the page that compares is sent (page.py, contrast.py). L layers, E experts.

import type { Made } from "../shared/behind.js";

export interface Preset {
  name: string;
  a: string;
  b: string;
  /** What the store would need; "" if it can be compared so. */
  lacks: string;
}

export interface Boot {
  presets: Preset[];
  address: string;
}

/** Numbers of a group [L × E]. */
export interface Numbers {
  share_a: Float32Array;
  share_b: Float32Array;
  difference: Float32Array;
  low: Float32Array;
  high: Float32Array;
  p: Float32Array;
  q: Float32Array;
}

export interface Group extends Numbers {
  name: string;
  layers: number[];
  experts: number;
  tokens_a: number;
  tokens_b: number;
}

export interface Contrast {
  groups: Group[];
  traces: number;
  paired: boolean;
  left_out: number;
  smallest_p: number;
  source: string;
  made: Made;
}

export interface ShiftRow {
  layer: number;
  divergence: number | null;
  low: number | null;
  high: number | null;
  null: number | null;
  p: number;
}

export interface Shift {
  groups: { name: string; rows: ShiftRow[] }[];
  made: Made;
}

/** A layer and an expert. */
export interface Cell {
  layer: number;
  expert: number;
}
