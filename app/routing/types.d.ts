import type { Made } from "../shared/behind.js";
import type { Host } from "../shared/host.js";
import type { Focus, Shape, Window } from "./zoom.js";

export type { Focus, Shape, Window };

/** What the map draws, as usage_map.py sends it. */
export interface Sent {
  metric: string;
  phase: string;
  title: string;
  layers: number[];
  low: number;
  high: number;
  scale: "sequential" | "diverging" | "warm";
  values: string;
  load: string;
  violation: string;
  gini: string;
  made: Made | null;
}

/** The same with its arrays: by layer and expert, or by layer. */
export interface Usage extends Omit<Sent, "values" | "load" | "violation" | "gini"> {
  values: Float32Array;
  load: Float32Array;
  violation: Float32Array;
  gini: Float32Array;
}

/** Places of the parts of the map, in pixels. */
export interface Frame {
  /** Left and right end of the map. */
  left: number;
  right: number;
  /** Top and bottom of the load above it, and of the map. */
  loadTop: number;
  loadBottom: number;
  top: number;
  bottom: number;
  /** Left and right end of the two columns beside it. */
  columns: [number, number][];
  height: number;
}

/** The map on the page. */
export interface UsageMap {
  node: HTMLElement;
  shape: Shape;
  window(): Window;
  /** Show a part of it. */
  look(wanted: Window): void;
  draw(usage: Usage): void;
  /** Draw it again, with another focus. */
  mark(): void;
  /** Scroll the row of a layer into sight. */
  scrollTo(layer: number): void;
}

/** What is shown. */
export interface Boot {
  /** Path of the numbers, which the host answers. */
  usage: string;
  /** What they are of, where a server tells more of it. */
  of?: { run: string; trace?: string };
}

/** What an expert was chosen for (routes.py). */
export interface Evidence {
  tokens: { text: string; n: number; share: number; weight: number | null }[];
  contexts: {
    trace_id: number;
    pos: number;
    weight: number | null;
    before: string;
    token: string;
    after: string;
  }[];
  bias: number | null;
  /** Address of what tells its phases apart from chance; null where one of them is not there. */
  proof: string | null;
}

/** Usage in every metric and phase (usage_payload.py). */
export interface Counts {
  shape: Shape;
  /** Phases with tokens: how many, those of both of a difference, and how often each was chosen. */
  phases: Record<string, { tokens: number[]; n: Uint32Array }>;
  /** The numbers of a metric in a phase; null where nothing is known. */
  view(metric: string, phase: string): (Usage & { ends: [string, string] }) | null;
  /** The command that sums them up for good, where they were counted; "" where they are sums. */
  command: string;
}

/** State of what is shown; only view.js changes it. */
export interface View {
  host: Host;
  counts: Counts;
  metric: string;
  phase: string;
  focus: Focus;
  /** Focus an expert; closer to it if its cell is too small to be seen. */
  setFocus(focus: Focus, closer: boolean): void;
}

/** What keys and buttons do. */
export interface Acts {
  draw(): void;
  /** Move the focus by layers and experts. */
  step(down: number, right: number): void;
  /** Move the part that is shown. */
  pan(right: number, down: number): void;
  /** Zoom in (below 1) or out. */
  zoom(factor: number): void;
  showWhole(): void;
  /** Let go of the expert. */
  release(): void;
  /** Say something of it. */
  annotate(): void;
}
