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

/** What a strip is about. */
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
  /** Whether this is a copy, which shows what was said and takes no more. */
  is_copy?: boolean;
}

/** How a strip goes with the view that it stands in. */
export interface Ties {
  /** The key that annotates. */
  key?: string;
  /** The focused token of the trace. */
  pos?(): number | null;
  /** Bring a token of the trace into focus. */
  show?(pos: number): void;
  /** Called when what was said has been read, and whenever it was read again. */
  changed?(): void;
}

export interface Strip {
  node: HTMLElement;
  /** Say something: of the focused step, or of what the strip is about. */
  annotate(): void;
  rows(): Said[];
  /** What the server told last; null before it did. */
  answer(): Answer | null;
  /** What was said of the step that has these tokens: first, and after the last. */
  chipsOf(from: number, to: number): HTMLElement[];
}

/** What an annotation is about, as the request names it. */
export type Subject = Record<string, string | number>;
