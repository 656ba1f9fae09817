// What a bundle says of itself (contents.py, aggregates.py).

/** A trace in the list. */
export interface Summary {
  trace_id: number;
  prompt: string;
  task: string | null;
  correct: boolean | null;
  expected: string | null;
  answer: string | null;
  tokens: number;
  n_prompt: number;
  n_think: number;
  n_answer: number;
  finish_reason: string;
  entropy: number | null;
  /** Labels that people gave it and its steps. */
  labels: string;
  run_id: string;
  model: string;
  mode: string;
}

/** A run, of which the bundle has some traces. */
export interface Run {
  run_id: string;
  model: string;
  mode: string;
  traces: number;
  has_routing: boolean;
}

export interface Index {
  title: string;
  version: string;
  /** What it holds: all of some traces, or sums over traces. */
  about: "traces" | "aggregates";
  /** Tokens of a phase below which sums are left out. */
  least?: number;
  /** How many annotations it holds. */
  said?: number;
  runs: Run[];
  traces: Summary[];
}

/** What a trace is started with. */
export type Boot = import("../trace/types.js").Boot & { heads_block: number };
