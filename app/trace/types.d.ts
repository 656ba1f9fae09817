// What the scripts of the trace page pass to one another. T tokens, S sparse layers, k experts a
// token, N layers, H heads.

import type { Strip } from "../annotations/types.js";
import type { Behind, Made } from "../shared/behind.js";
import type { Host } from "../shared/host.js";
import type { Sequence } from "../shared/steps.js";
import type { Surface } from "../shared/surface.js";
import type { Blocks } from "./blocks.js";

/** A column with a number for each head, and how it is named. */
export interface HeadStatistic {
  column: string;
  label: string;
  unit: string;
  meaning: string;
  /** Its name in the glossary; "" if that has none. */
  term: string;
}

/** A table of such columns that was recorded for the trace. */
export interface HeadTable {
  table: string;
  title: string;
  columns: HeadStatistic[];
}

/** A head of a layer. */
export interface Head {
  layer: number;
  head: number;
}

/** What the page knows before it fetches anything (page.py). */
export interface Boot {
  trace_id: number;
  run_id: string;
  mode: string;
  previous: number | null;
  next: number | null;
  /** The list that these are neighbours in, as the query of its address. */
  list: string;
  layers: number;
  sparse_layers: number[];
  experts: number;
  groups: number;
  k: number;
  heads: number;
  head_tables: HeadTable[];
  /** Layers, and of each the heads whose heaviest positions were recorded. */
  attention_heads: [number, number[]][];
  has_routing: boolean;
  has_weights: boolean;
  /** Which metrics can be shown. */
  recorded: Record<string, boolean>;
  /** How the numbers of metrics were made; `$pos` stands for the focused token. */
  made: Record<string, Made>;
  /** The version of the store that this is of, if more may follow; null where the trace is whole. */
  grows_at?: string | null;
}

/** What is not there to be shown, and the command that makes it; "" where there is none. */
export interface Lacks {
  lacks: string;
  command: string;
}

/** The steps of a trace, who labelled them, and how they were read. */
export interface Steps extends Sequence {
  source: string[];
  made: Made;
}

/** Something along the trace, which the ribbon draws on the axis of tokens. */
export interface Track {
  name: string;
  readonly label: string;
  /** Its name in the glossary; "" if that has none. */
  readonly term: string;
  /** What its colours or heights mean: colours from low to high, and the end of the scale. */
  scale(): { colours: string[]; text: string } | null;
  height(): number;
  /** What it would need, if it has nothing to show. */
  lacks(): Lacks | null;
  /** Why it could not be read. */
  failed(): string | null;
  /** Fetch what it shows; null where that is here, or can never be. */
  load: (() => Promise<void>) | null;
  draw(surface: Surface, width: number, height: number): void;
  /** What is at a token, and so many pixels below the top: names and values. */
  hover(pos: number, y: number): [string, string][] | null;
  /** Token that a click at a token leads to. */
  target(pos: number): number;
  behind(): Behind | null;
}

/** What is known of each token [T]. */
export interface Tokens {
  text: string;
  /** Ends of the tokens in the text. */
  ends: Uint32Array;
  ids: Uint32Array;
  /** Places in PHASES. */
  phase: Uint8Array;
  logprob: Float32Array;
  surprise: Float32Array;
  entropy: Float32Array;
  /** Fetched when it is first shown. */
  margin: Float32Array | null;
}

/** Heaviest expert of each token at one layer, and its share of the routing weight [T]. */
export interface LayerExperts {
  expert: Uint16Array;
  share: Float32Array;
  made: Made;
}

/** A metric as colours: of each token a bin, of each bin a colour. */
export interface Ramp {
  kind: "ramp";
  /** What it shows: a metric, or "attention" of a head. */
  of: string;
  bins: Uint16Array;
  palette: string[];
  values: Float32Array;
  /** Tokens whose value was not recorded. */
  unknown: number;
  /** Value at the end of the scale. */
  top: number;
  reversed: boolean;
}

/** Something of a few kinds, each with a colour of its own. */
export interface Bands {
  kind: "expert" | "phase";
  bins: Uint16Array | Uint8Array;
  palette: string[];
  unknown: number;
}

export type Paint = Ramp | Bands;

/** Places of a text in the trace, as offsets into its text. */
export interface Matches {
  query: string;
  starts: Uint32Array;
  ends: Uint32Array;
}

/** The bar of find and steps. */
export interface Ways {
  node: HTMLElement;
  /** Say what was found. */
  show(): void;
  toPeak(by: 1 | -1): void;
  toPhase(by: 1 | -1): void;
  /** Put the caret into the box. */
  focus(): void;
}

/** The text of the trace. */
export interface Text {
  node: HTMLElement;
  build(): void;
  /** Make the spans of all tokens, and not only of those on and near the screen. */
  makeAll(): void;
  recolor(): void;
  focus(scroll: boolean): void;
  /** Mark a token that the panel speaks of, and scroll to it if need be. */
  point(pos: number | null, scroll: boolean): void;
  /** Mark what was found. */
  markFound(): void;
  /** Mark the first tokens of steps that people annotated. */
  markSaid(): void;
  /** First token of the line so many lines after that of the focus. */
  lineStep(by: number): number;
  /** First and last token on screen. */
  visible(): [number, number];
}

/** The whole trace on one axis. */
export interface Ribbon {
  node: HTMLElement;
  draw(): void;
  /** Mark the focused token. */
  mark(): void;
  /** Frame what the text shows. */
  frame(): void;
}

/** What the model did at the focused token. */
export interface Panel {
  node: HTMLElement;
  show(): void;
  /** Give the keyboard to the first map of heads. */
  enterMap(): void;
  /** Fetch what the panel of a token will show. */
  ask(pos: number): void;
  /** The same once the pointer or the text rests somewhere; null where it is gone. */
  askSoon(where: (() => number) | null): void;
  /** Bring the map of the path on screen, or the token again. */
  turn(): void;
}

/** State of the page; only view.js changes it. */
export interface View {
  boot: Boot;
  /** Answers what is asked of the trace. */
  host: Host;
  root: HTMLElement;
  ready: boolean;
  data: Tokens;
  count: number;
  token(i: number): string;
  steps: Steps | null;
  /** Why there are no steps. */
  noSteps: Lacks | null;
  layers: Map<number, LayerExperts>;
  /** Layers that were asked for. */
  layersAsked: Map<number, Promise<void>>;
  metric: string;
  layer: number | null;
  /** Focused token. */
  pos: number | null;
  /** The only expert that is shown. */
  only: number | null;
  /** Head whose attention the text shows in place of the metric. */
  head: Head | null;
  /** What that head attends to from the focused token. */
  sources: Sources | null;
  heads: HeadSources;
  statistics: Map<string, Blocks<HeadsBlock>>;
  /** What was found of the text that was asked for, and which place is in focus. */
  found: Matches;
  foundAt: number | null;
  paint: Paint | null;
  text: Text;
  ribbon: Ribbon;
  panel: Panel;
  ways: Ways;
  /** What people said of it. */
  said: Strip;
  legend: HTMLElement;
  layerBox: HTMLElement;
  layerSelect: HTMLSelectElement;
  setPos(pos: number, scroll: boolean): void;
  setLayer(layer: number): void;
  setOnly(expert: number | null): void;
  setHead(head: Head | null): void;
  setFound(query: string): void;
  /** Go to the next place that was found, or the one before. */
  stepFound(by: 1 | -1): void;
  fail(error: unknown): void;
}

/** Records of some tokens that stand side by side. */
export interface Block {
  start: number;
  tokens: number;
  layers: number[];
}

/** Records of routing: arrays [S, tokens] and [S, tokens, k]. */
export interface RoutingBlock extends Block {
  ids: Uint16Array;
  weights: Float32Array;
  affinities: Float32Array;
  biasFlips: Uint8Array;
  margin: Float32Array;
  groupMargin: Float32Array;
  entropy: Float32Array;
  shutOut: Uint16Array;
  /** First of each (layer, token) in `shutOut`, and one more [S * tokens + 1]. */
  shutOutFrom: Uint32Array;
}

/** Statistics of heads [N, tokens, H], by column. */
export interface HeadsBlock extends Block {
  table: HeadTable;
  columns: Record<string, Float32Array>;
}

/** Heaviest positions of a head [tokens, k]; weights are NaN where there is none. */
export interface AttentionBlock extends Block {
  k: number;
  positions: Uint32Array;
  weights: Float32Array;
}

/** Tokens that a head attends to from one token, heaviest first, as far as they are known. */
export interface Sources {
  of: "heaviest" | "two tokens" | "nothing";
  positions: number[];
  weights: number[];
}

/** Reads what heads attend to. */
export interface HeadSources {
  /** What is here already. */
  find(head: Head, pos: number): Sources | undefined;
  /** The same, fetched if need be. */
  load(head: Head, pos: number): Promise<Sources>;
}
