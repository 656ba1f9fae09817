// The part of the heatmap that is shown: by wheel and drag (plotly's own), by keys and buttons.

import { param, setParams } from "../shared/address.js";

/**
 * Layers that have experts, how many experts each has, and whether the map zooms.
 * @typedef {{layers: number[], experts: number, zooms: boolean}} Shape
 */
/** @typedef {[number, number, number, number]} Window First and last expert, first and last layer. */

const LEAST = 8; // experts, or layers, that a key leaves on screen
const ROOM = [32, 16]; // experts and layers around one that is gone to

/** @typedef {HTMLElement & {layout?: any}} Graph */

/** @returns {Graph | null} */
const graph = () => document.querySelector("#heatmap .js-plotly-plot");

/** @param {Shape} shape @returns {Window} */
const whole = ({ layers, experts }) => [0, experts - 1, layers[0], layers[layers.length - 1]];

/**
 * What is shown now; null before the map is drawn.
 * @returns {Window | null}
 */
const shown = () => {
  const layout = graph()?.layout;
  if (!layout?.xaxis?.range) return null;
  const [left, right] = layout.xaxis.range;
  const [bottom, top] = layout.yaxis.range;
  return [left + 0.5, right - 0.5, top + 0.5, bottom - 0.5];
};

/**
 * Distance of labels on an axis, as heatmap.ticks says.
 * @param {number} span
 * @param {number} most
 */
const labels = (span, most) => ({ dtick: 2 ** Math.max(0, Math.ceil(Math.log2(span / most))) });

/**
 * Put a span inside the limits, as wide as it was where there is room.
 * @param {number} from
 * @param {number} to
 * @param {number} low
 * @param {number} high
 * @returns {[number, number]}
 */
const inside = (from, to, low, high) => {
  const span = Math.min(to - from, high - low);
  const start = Math.max(low, Math.min(high - span, from));
  return [start, start + span];
};

/**
 * Show a part of the map.
 * @param {Shape} shape
 * @param {Window} wanted
 */
export function show(shape, wanted) {
  const node = graph();
  if (!node || !shape.zooms) return;
  const all = whole(shape);
  const [left, right] = inside(wanted[0], wanted[1], all[0], all[1]);
  const [top, bottom] = inside(wanted[2], wanted[3], all[2], all[3]);
  window.Plotly.relayout(node, {
    "xaxis.range": [left - 0.5, right + 0.5],
    "yaxis.range": [bottom + 0.5, top - 0.5],
  });
}

/** @param {Shape} shape */
export const showWhole = (shape) => show(shape, whole(shape));

/**
 * Zoom around the expert in focus if it is shown, else around the middle.
 * @param {Shape} shape
 * @param {number} factor Below 1 zooms in.
 * @param {{L: number, E: number | null}} focus
 */
export function zoom(shape, factor, focus) {
  const now = shown();
  if (!now) return;
  /** @type {(from: number, to: number, at: number | null) => [number, number]} */
  const around = (from, to, at) => {
    const middle = at !== null && at >= from && at <= to ? at : (from + to) / 2;
    const span = Math.max(LEAST - 1, (to - from + 1) * factor - 1);
    const part = (middle - from + 0.5) / (to - from + 1);
    const start = Math.round(middle + 0.5 - part * (span + 1));
    return [start, start + Math.round(span)];
  };
  const isThere = focus.E !== null && focus.E >= now[0] && focus.E <= now[1];
  const [left, right] = around(now[0], now[1], isThere ? focus.E : null);
  const [top, bottom] = around(now[2], now[3], isThere ? focus.L : null);
  show(shape, [left, right, top, bottom]);
}

/**
 * Move the part that is shown by a quarter of it.
 * @param {Shape} shape
 * @param {number} right
 * @param {number} down
 */
export function pan(shape, right, down) {
  const now = shown();
  if (!now) return;
  const x = right * Math.ceil((now[1] - now[0]) / 4);
  const y = down * Math.ceil((now[3] - now[2]) / 4);
  show(shape, [now[0] + x, now[1] + x, now[2] + y, now[3] + y]);
}

/**
 * Have an expert on screen: zoom to it where the cells are too small, and scroll to its row.
 * @param {Shape} shape
 * @param {number} layer
 * @param {number} expert
 * @param {boolean} closer Whether to zoom in, if need be.
 */
export function reveal(shape, layer, expert, closer) {
  const now = shown();
  if (!now || !shape.zooms) return;
  const isShown = expert >= now[0] && expert <= now[1] && layer >= now[2] && layer <= now[3];
  const isSmall = now[1] - now[0] >= 2 * ROOM[0];
  if (!isShown || (closer && isSmall)) {
    const [wide, high] = closer && isSmall ? ROOM : [now[1] - now[0] + 1, now[3] - now[2] + 1];
    const [left, top] = [expert - (wide >> 1), layer - (high >> 1)];
    show(shape, [left, left + wide - 1, top, top + high - 1]);
  }
  if (closer) scrollTo(layer);
}

/** @param {number} layer */
function scrollTo(layer) {
  const now = shown();
  const map = document.querySelector("#heatmap .nsewdrag[data-subplot=xy]");
  const frame = map?.closest(".routing-main");
  if (!now || !map || !frame) return;
  const box = map.getBoundingClientRect();
  const y = box.top + (box.height * (layer - now[2] + 0.5)) / (now[3] - now[2] + 1);
  const seen = frame.getBoundingClientRect();
  if (y < seen.top + 20 || y > seen.bottom - 20) frame.scrollTop += y - seen.top - seen.height / 2;
}

/** Height of the map in pixels. */
const mapHeight = () =>
  document.querySelector("#heatmap .nsewdrag[data-subplot=xy]")?.getBoundingClientRect().height;

/**
 * The part that the address asks for; null for all of the map, also if it asks for none of it.
 * @param {Shape} shape
 * @returns {Window | null}
 */
function asked(shape) {
  const found = /^([\d.]+)-([\d.]+),([\d.]+)-([\d.]+)$/.exec(param("zoom") || "");
  if (!found || !shape.zooms) return null;
  const [left, right, top, bottom] = found.slice(1).map(Number);
  const all = whole(shape);
  const fits = left < right && right <= all[1] && top >= all[2] && top < bottom && bottom <= all[3];
  return fits ? [left, right, top, bottom] : null;
}

/**
 * Frame a figure of the server's, which shows all of the map, as the address says.
 * @param {any} figure
 * @param {Shape} shape
 */
export function framed(figure, shape) {
  const wanted = asked(shape);
  if (!wanted) return figure;
  const [left, right, top, bottom] = wanted;
  const { xaxis, yaxis } = figure.layout;
  Object.assign(xaxis, { range: [left - 0.5, right + 0.5] }, labels(right - left + 1, 16));
  Object.assign(yaxis, { range: [bottom + 0.5, top - 0.5] });
  Object.assign(yaxis, labels(bottom - top + 1, (mapHeight() || 480) / 16));
  figure.layout.uirevision = param("zoom"); // what is shown now does not outlive this
  return figure;
}

/**
 * After any move: labels that fit, and the address.
 * @param {Shape} shape
 */
export function keep(shape) {
  const [node, now] = [graph(), shown()];
  if (!node || !now || !shape.zooms) return;
  const all = whole(shape);
  const isWhole = now.every((each, i) => Math.abs(each - all[i]) < 0.05);
  const [left, right, top, bottom] = now.map((each) => Number(each.toFixed(1)));
  setParams({ zoom: isWhole ? null : `${left}-${right},${top}-${bottom}` });
  const wanted = {
    "xaxis.dtick": labels(now[1] - now[0] + 1, 16).dtick,
    "yaxis.dtick": labels(now[3] - now[2] + 1, (mapHeight() || 480) / 16).dtick,
  };
  const { xaxis, yaxis } = node.layout;
  if (xaxis.dtick !== wanted["xaxis.dtick"] || yaxis.dtick !== wanted["yaxis.dtick"]) {
    window.Plotly.relayout(node, wanted);
  }
}
