// Draws the map of layers × experts: the load of a layer above it, how even each layer is beside it.

import * as colours from "../shared/colours.js";
import { percent } from "../shared/text.js";
import { ink } from "../shared/theme.js";

/** @import { Surface } from "../shared/surface.js" */
/** @import { Focus, Frame, Shape, Usage, Window } from "./types.js" */

const [LOAD, GAP, TOP, BOTTOM, LEFT, RIGHT] = [104, 30, 24, 26, 44, 12];
const [LEAST, MOST] = [9, 62]; // height of a row
const AREA = 0.6; // of the window that the map takes, at least AREA_LEAST pixels
const AREA_LEAST = 460;
const BESIDE = [
  [0.856, 0.92],
  [0.936, 1],
]; // where the columns beside the map stand, of the width
const MAP = 0.84; // of the width
const APART = 48; // pixels between the names of two experts
const LINE = 13; // pixels that the name of a layer takes
const BARS = 24; // layers up to which a bar has its number beside it
const IMAGE = 4096; // cells from which they are drawn as an image

/** @type {Record<Usage["scale"], () => string[]>} */
const SCALES = { sequential: colours.heat, diverging: colours.diverging, warm: colours.warm };

/** @param {Usage} usage */
export const scaleOf = (usage) => SCALES[usage.scale]();

/** @param {Shape} shape */
const rows = ({ layers }) => layers[layers.length - 1] - layers[0] + 1;

/**
 * @param {Shape} shape
 * @param {number} width
 * @returns {Frame}
 */
export function frameOf(shape, width) {
  const area = Math.max(AREA_LEAST, AREA * window.innerHeight);
  const row = Math.min(MOST, Math.max(LEAST, Math.floor(area / rows(shape))));
  const inner = width - LEFT - RIGHT;
  const top = TOP + LOAD + GAP;
  const bottom = top + row * rows(shape);
  return {
    left: LEFT,
    right: LEFT + Math.round(MAP * inner),
    loadTop: TOP,
    loadBottom: TOP + LOAD,
    top,
    bottom,
    columns: BESIDE.map(([from, to]) => [LEFT + from * inner, LEFT + to * inner]),
    height: bottom + BOTTOM,
  };
}

/** Where experts and layers stand while a part is shown. @type {(f: Frame, now: Window) => {x: (e: number) => number, y: (l: number) => number}} */
export const placesOf = (f, now) => ({
  x: (expert) => f.left + ((expert - now[0] + 0.5) / (now[1] - now[0] + 1)) * (f.right - f.left),
  y: (layer) => f.top + ((layer - now[2] + 0.5) / (now[3] - now[2] + 1)) * (f.bottom - f.top),
});

/**
 * Distance of labels, a power of two, so that at most so many stand on an axis.
 * @type {(span: number, most: number) => number}
 */
const apart = (span, most) => 2 ** Math.max(0, Math.ceil(Math.log2(span / most)));

/** @type {(usage: Usage, value: number) => string} */
export function said(usage, value) {
  const sign = usage.phase === "difference" && value > 0 ? "+" : "";
  const digits = usage.metric === "flips" ? 1 : 2;
  if (usage.metric === "lift") return `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
  return `${sign}${(100 * value).toFixed(digits)}%`;
}

/**
 * Number of the colour of a value.
 * @type {(usage: Usage, value: number) => number}
 */
const binOf = ({ low, high }, value) =>
  Math.max(0, Math.min(63, Math.round((63 * (value - low)) / (high - low || 1))));

/** @type {(scale: string[]) => Uint8ClampedArray} Red, green and blue of each colour. */
const channels = (scale) =>
  Uint8ClampedArray.from(scale.flatMap((each) => each.match(/\d+/g)?.map(Number) || [0, 0, 0]));

/**
 * All cells as an image, a pixel each; layers without a record stay clear.
 * @type {(usage: Usage, shape: Shape) => HTMLCanvasElement}
 */
export function imageOf(usage, shape) {
  const image = document.createElement("canvas");
  [image.width, image.height] = [shape.experts, rows(shape)];
  const context = image.getContext("2d");
  if (!context) throw new Error("this browser gives no canvas to draw on");
  const pixels = context.createImageData(image.width, image.height);
  const rgb = channels(scaleOf(usage));
  usage.layers.forEach((layer, s) => {
    for (let e = 0; e < shape.experts; e++) {
      const value = usage.values[s * shape.experts + e];
      if (!Number.isFinite(value)) continue;
      const at = 4 * ((layer - shape.layers[0]) * shape.experts + e);
      const colour = 3 * binOf(usage, value);
      pixels.data.set([rgb[colour], rgb[colour + 1], rgb[colour + 2], 255], at);
    }
  });
  context.putImageData(pixels, 0, 0);
  return image;
}

/**
 * What is drawn, and where.
 * @typedef {object} Scene
 * @property {Usage} usage
 * @property {Shape} shape
 * @property {Frame} f
 * @property {Window} now
 * @property {Focus} focus
 * @property {HTMLCanvasElement | null} image Of all cells; without it they are drawn one by one.
 */

/** @type {(c: Surface, scene: Scene) => void} */
export function drawMap(c, scene) {
  const { f, now, focus } = scene;
  const { x, y } = placesOf(f, now);
  cells(c, scene);
  groups(c, scene, x);
  axes(c, scene, x, y);
  load(c, scene, x);
  balance(c, scene, y);
  if (focus.E === null || !isShown(now, focus.E, focus.L)) return;
  const [left, right] = [x(focus.E - 0.5), x(focus.E + 0.5)];
  const [top, bottom] = [y(focus.L - 0.5), y(focus.L + 0.5)];
  const [w, h] = [Math.max(5, right - left), Math.max(5, bottom - top)];
  c.lineWidth = 2;
  c.strokeStyle = ink("--surface");
  c.strokeRect(left - 1, top - 1, w + 2, h + 2);
  c.strokeStyle = ink("--accent");
  c.strokeRect(left - 3, top - 3, w + 6, h + 6);
}

/** @type {(now: Window, expert: number, layer: number) => boolean} */
const isShown = (now, expert, layer) =>
  expert >= now[0] - 0.5 &&
  expert <= now[1] + 0.5 &&
  layer >= now[2] - 0.5 &&
  layer <= now[3] + 0.5;

/** Whether an image of so many cells is drawn. @param {Shape} shape */
export const asImage = (shape) => rows(shape) * shape.experts >= IMAGE;

/** @type {(c: Surface, scene: Scene) => void} */
function cells(c, { usage, shape, f, now, image }) {
  if (image && "drawImage" in c) {
    const context = /** @type {CanvasRenderingContext2D} */ (c);
    context.imageSmoothingEnabled = false;
    const from = [now[0], now[2] - shape.layers[0]];
    const size = [now[1] - now[0] + 1, now[3] - now[2] + 1];
    const box = [f.left, f.top, f.right - f.left, f.bottom - f.top];
    context.drawImage(image, from[0], from[1], size[0], size[1], box[0], box[1], box[2], box[3]);
    return;
  }
  const { x, y } = placesOf(f, now);
  const scale = scaleOf(usage);
  const gap = shape.experts <= 64 ? 1 : 0;
  usage.layers.forEach((layer, s) => {
    if (layer < now[2] - 0.5 || layer > now[3] + 0.5) return;
    const top = Math.max(f.top, Math.round(y(layer - 0.5)));
    const high = Math.min(f.bottom, Math.round(y(layer + 0.5))) - top - gap;
    for (
      let e = Math.max(0, Math.floor(now[0]));
      e <= Math.ceil(now[1]) && e < shape.experts;
      e++
    ) {
      const value = usage.values[s * shape.experts + e];
      if (!Number.isFinite(value)) continue;
      const left = Math.max(f.left, Math.round(x(e - 0.5)));
      const right = Math.min(f.right, Math.round(x(e + 0.5)));
      if (right <= left) continue;
      c.fillStyle = scale[binOf(usage, value)];
      c.fillRect(left, top, right - left - gap, high);
    }
  });
}

/** @type {(c: Surface, scene: Scene, x: (e: number) => number) => void} */
function groups(c, { shape, f, now }, x) {
  if (shape.groups < 2) return;
  const size = shape.experts / shape.groups;
  const wide = shape.experts <= 64 ? 5 : 2;
  c.font = "10.5px sans-serif";
  c.textAlign = "center";
  c.textBaseline = "bottom";
  for (let g = 0; g < shape.groups; g++) {
    const edge = g * size - 0.5;
    if (g && edge > now[0] && edge < now[1]) {
      c.fillStyle = ink("--bg");
      c.fillRect(x(edge) - wide / 2, f.loadTop, wide, f.bottom - f.loadTop);
    }
    const middle = (Math.max(edge, now[0] - 0.5) + Math.min(edge + size, now[1] + 0.5)) / 2;
    if (middle < edge || middle > edge + size) continue;
    c.fillStyle = ink("--text-3");
    c.fillText(shape.groups < 16 ? `group ${g}` : `${g}`, x(middle), f.top - 5);
  }
}

/** @type {(c: Surface, scene: Scene, x: (e: number) => number, y: (l: number) => number) => void} */
function axes(c, { shape, f, now }, x, y) {
  c.font = "11px sans-serif";
  c.fillStyle = ink("--text-2");
  c.textAlign = "right";
  c.textBaseline = "middle";
  const [first] = shape.layers;
  const down = apart(now[3] - now[2] + 1, (f.bottom - f.top) / LINE);
  for (let layer = first; layer <= now[3] + 0.25; layer += down) {
    if (layer >= now[2] - 0.25) c.fillText(`L${layer}`, f.left - 6, y(layer));
  }
  c.fillStyle = ink("--text-3");
  c.font = "10px sans-serif";
  c.textAlign = "center";
  const across = apart(now[1] - now[0] + 1, (f.right - f.left) / APART);
  for (let expert = 0; expert <= now[1] + 0.25; expert += across) {
    if (expert >= now[0] - 0.25) c.fillText(`${expert}`, x(expert), f.bottom + 12);
  }
}

/** The load of the layer in focus. @type {(c: Surface, scene: Scene, x: (e: number) => number) => void} */
function load(c, { usage, shape, f, now, focus }, x) {
  const s = usage.layers.indexOf(focus.L);
  const high = f.loadBottom - f.loadTop - 16;
  const values = s < 0 ? [] : usage.load.subarray(s * shape.experts, (s + 1) * shape.experts);
  const uniform = shape.k / shape.experts;
  const top = Math.max(uniform, ...values) || 1;
  /** @param {number} value */
  const y = (value) => f.loadBottom - (value / top) * high;
  values.forEach((value, e) => {
    if (e < now[0] - 0.5 || e > now[1] + 0.5) return;
    const [from, to] = [Math.max(f.left, x(e - 0.5)), Math.min(f.right, x(e + 0.5))];
    c.fillStyle = e === focus.E ? ink("--accent") : ink("--bar");
    const gap = to - from > 4 ? 1.5 : to - from > 2 ? 0.6 : 0;
    c.fillRect(from + gap / 2, y(value), Math.max(0.8, to - from - gap), f.loadBottom - y(value));
  });
  c.strokeStyle = ink("--text-3");
  c.lineWidth = 1;
  c.setLineDash([2, 3]);
  c.beginPath();
  c.moveTo(f.left, y(uniform));
  c.lineTo(f.right, y(uniform));
  c.stroke();
  c.setLineDash([]);
  c.font = "10px sans-serif";
  c.fillStyle = ink("--text-3");
  c.textAlign = "right";
  c.textBaseline = "middle";
  c.fillText(percent(top), f.left - 6, y(top));
  c.fillText("0%", f.left - 6, f.loadBottom);
  c.textAlign = "left";
  c.textBaseline = "bottom";
  c.font = "10.5px sans-serif";
  const over = usage.phase === "difference" ? " in think and answer" : "";
  c.fillText(`Load of layer ${focus.L}${over}  ·  dotted: uniform`, f.left, f.loadTop - 6);
}

/** MaxVio and Gini of each layer. @type {(c: Surface, scene: Scene, y: (l: number) => number) => void} */
function balance(c, { usage, f, now }, y) {
  const few = usage.layers.length <= BARS;
  const columns = [
    { name: "MaxVio", values: usage.violation, least: 0 },
    { name: "Gini", values: usage.gini, least: 0.2 },
  ];
  columns.forEach(({ name, values, least }, i) => {
    const [left, right] = f.columns[i];
    const most = Math.max(least, ...values.filter(Number.isFinite)) || 1;
    const room = few ? right - left - 30 : right - left;
    c.fillStyle = ink("--text-3");
    c.font = "10.5px sans-serif";
    c.textAlign = "left";
    c.textBaseline = "bottom";
    c.fillText(name, left, f.top - 5);
    usage.layers.forEach((layer, s) => {
      if (layer < now[2] - 0.5 || layer > now[3] + 0.5 || !Number.isFinite(values[s])) return;
      const [top, bottom] = [Math.max(f.top, y(layer - 0.5)), Math.min(f.bottom, y(layer + 0.5))];
      const high = few ? Math.min(10, 0.4 * (bottom - top)) : Math.min(10, 0.6 * (bottom - top));
      const middle = (top + bottom) / 2;
      c.fillStyle = ink("--bar");
      c.fillRect(left, middle - high / 2, Math.max(1, (values[s] / most) * room), high);
      if (!few) return;
      c.fillStyle = ink("--text-2");
      c.font = "11px sans-serif";
      c.textBaseline = "middle";
      c.fillText(values[s].toFixed(2), left + (values[s] / most) * room + 5, middle);
    });
  });
}
