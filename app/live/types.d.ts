// What the server tells of a live model, and what the page keeps of it.

/** What the page is told at first. */
export interface Boot {
  model: string;
  /** Most characters of a prompt. */
  characters: number;
  /** Most new tokens. */
  tokens: number;
  /** New tokens that the form begins with. */
  usual: number;
  phases: string[];
  /** Names of sets of problems. */
  sets: string[];
}

export interface Shape {
  layers: number;
  sparse_layers: number[];
  experts: number;
  heads: number;
}

/** Text, place of the phase, entropy in nats. */
export type Token = [string, number, number | null];

export interface Asked {
  prompt: string;
  /** What the prompt is of, if it was not typed. */
  problem: { id: string; answer: string | null } | null;
  interventions: string[];
  max_new_tokens: number;
  temperature: number;
  seed: number;
}

export interface Thought {
  number: number;
  pair: number;
  asked: Asked;
  state: "waiting" | "running" | "stopping" | "done" | "failed";
  trace: number | null;
  reason: string | null;
  /** What it answered a problem, once it is whole. */
  grade: { answer: string | null; correct: boolean | null } | null;
  error: string | null;
  written: number;
  pace: number | null;
  edition: number;
  start: number;
  tokens: Token[];
}

export interface News {
  model: { name: string; state: "loading" | "ready" | "ended"; said: string; shape: Shape | null };
  thoughts: Thought[];
}

/** The form. */
export interface Form {
  node: HTMLElement;
  /** Say what the model has: its layers and experts. */
  know(shape: Shape | null): void;
  /** Let it be asked, or say why not. */
  allow(why: string): void;
  focus(): void;
  submit(): void;
}

/** Thoughts that stand side by side. */
export interface Pair {
  node: HTMLElement;
  /** Take what is new of one of them. */
  take(thought: Thought): void;
}
