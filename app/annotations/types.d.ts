// What is said of a trace, a step or an expert, as the server tells it (said.py).

export interface Said {
  annotation_id: string;
  kind: "trace" | "step" | "expert";
  trace_id: number | null;
  step: number | null;
  /** First token of the step. */
  pos: number | null;
  /** Whether the step has other tokens now than when this was said. */
  moved: boolean | null;
  layer: number | null;
  expert: number | null;
  label: string | null;
  note: string | null;
  author: string;
  source: string;
  created: string;
}

/** What a page's frame is about (frame.py). */
export type About = { trace_id: number } | { run_id: string; layer: number; expert: number };

export interface Answer {
  /** Changes with whatever anybody says. */
  said: string;
  rows: Said[];
  /** Number, first token and token after the last of each step; none of an expert. */
  steps?: [number, number, number][];
  author: string;
  /** Why nothing can be written; "" if it can. */
  refused: string;
}

/** What an annotation is about, as the request names it. */
export type Subject = Record<string, string | number>;
