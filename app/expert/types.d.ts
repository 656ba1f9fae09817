// What the page of an expert is sent (page.py, card.py). Numbers that are not known are null.

import type { Made } from "../shared/behind.js";

type Number = number | null;

export interface Boot {
  run_id: string;
  layer: number;
  expert: number;
  layers: number[];
  experts: number;
  groups: number;
  k: number;
}

export interface Load {
  phase: string;
  n: number;
  tokens: number;
  share: Number;
  weight: Number;
  lift: Number;
}

export interface Cause {
  phase: string;
  n: number;
  bias_flips: Number;
  stand_ins: Number;
  kept_out: number;
  margin_05: Number;
  margin_50: Number;
  margin_95: Number;
}

export interface Displacement {
  phase: string;
  event: string;
  other: number;
  n: number;
}

export interface Word {
  phase: string;
  text: string;
  occurrences: number;
  n: number;
  share: number;
  lift: Number;
}

export interface Role {
  phase: string;
  role: string;
  tokens: number;
  n: number;
  share: number;
  lift: Number;
  npmi: Number;
}

export interface Context {
  trace_id: number;
  pos: number;
  phase: string;
  role: string | null;
  weight: Number;
  before: string;
  text: string;
  after: string;
}

export interface Company {
  phase: string;
  other: number;
  n: number;
  share: number;
  lift: number;
}

export interface Label {
  /** What people say that it is for, the latest first. */
  said: { label: string; by: string }[];
  text: string;
  f1: Number;
  precision: Number;
  recall: Number;
  contexts: number;
  traces: [number, number];
  /** What lies in one half as a whole: "problem" or "trace". */
  split: string;
  reason: string;
  made: Made;
}

/** Rows of a part, and how they were made. */
export interface Rows<R> {
  rows: R[];
  made: Made;
}

export interface Causes extends Rows<Cause> {
  displacements: Displacement[];
  made_displacements: Made;
}

/** The parts of a card, by the names that they are asked for by. */
export interface Parts {
  load: Rows<Load> & { traces: number };
  causes: Causes;
  tokens: Rows<Word>;
  roles: Rows<Role>;
  contexts: Rows<Context>;
  company: Rows<Company>;
  label: Label;
  ablation: Ablation;
}

export interface Effect {
  key: string;
  traces: number;
  mean: number;
  low: Number;
  high: Number;
}

export interface Ablation {
  lacks?: string;
  command?: string;
  effects: Effect[];
  made: Made;
}
