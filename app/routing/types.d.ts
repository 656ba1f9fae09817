import type { Made } from "../shared/behind.js";
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
  made: Made;
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
