// The attention heads at the focused token: a small heatmap of layers × heads for each statistic.

import { contextOf } from "../shared/canvas.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { number, numberOr } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { named } from "./attention.js";

/** @import { HeadsBlock, HeadStatistic, HeadTable, View } from "./types.js" */

const AXES = "layer ↓  head →";
const HEIGHT = 180; // of a map, at most
const ROW = 11; // height of a row, at most
const LEAST = 7; // height and width of the frame around the chosen cell, at least

/**
 * @param {any} body
 * @param {HeadTable} table
 * @returns {HeadsBlock}
 */
export function decodeHeads(body, table) {
  const names = table.columns.map((each) => each.column);
  return {
    table,
    start: body.start,
    tokens: body.tokens,
    layers: body.layers,
    columns: Object.fromEntries(names.map((name) => [name, decode(body[name], "f4")])),
  };
}

/**
 * @param {HTMLElement} box
 * @param {HeadsBlock} block
 * @param {number} pos
 * @param {View} view
 */
export function drawHeads(box, block, pos, view) {
  const { boot } = view;
  const readout = el("span", "dim", AXES);
  const grid = el("div", "head-grid");
  for (const statistic of block.table.columns) {
    const values = block.columns[statistic.column];
    /** @type {(n: number, h: number) => number} */
    const value = (n, h) => values[(n * block.tokens + pos - block.start) * boot.heads + h];
    grid.appendChild(headMap(statistic, block.layers, value, readout, view));
  }
  add(box, add(el("h3", "", block.table.title), readout), grid);
}

/**
 * @param {HeadStatistic} statistic
 * @param {number[]} layers
 * @param {(n: number, h: number) => number} value
 * @param {HTMLElement} readout
 * @param {View} view
 */
function headMap(statistic, layers, value, readout, view) {
  const { column, label, unit } = statistic;
  const { heads } = view.boot;
  const chosen = view.head ? `. ${named(view.head)} is chosen` : "";
  const canvas = el("canvas", "", null, {
    role: "application",
    tabindex: 0,
    "data-column": column,
    "aria-label": `${label} by layer and head; arrow keys choose a head${chosen}`,
  });
  let top = 1e-6; // the scale ends at this token's largest value, which the caption names
  let gaps = 0;
  for (let n = 0; n < layers.length; n++) {
    for (let h = 0; h < heads; h++) {
      if (Number.isFinite(value(n, h))) top = Math.max(top, value(n, h));
      else gaps++;
    }
  }
  const range = `0 – ${number(top, top < 10 ? 2 : 0)}${unit && ` ${unit}`}`;
  const known = gaps === layers.length * heads ? "not recorded" : range;
  const caption = add(el("figcaption"), titleOf(statistic), el("span", "dim", known));
  requestAnimationFrame(() => drawMap(canvas, layers, value, top, readout, view));
  keysOf(canvas, layers, view);
  return add(el("figure"), caption, canvas);
}

/**
 * The name of a statistic, which tells what it is.
 * @param {HeadStatistic} statistic
 */
function titleOf({ label, meaning, term }) {
  return term ? termed(el("span", "", label), term) : el("span", "", label, { title: meaning });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} layers
 * @param {(n: number, h: number) => number} value
 * @param {number} top
 * @param {HTMLElement} readout
 * @param {View} view
 */
function drawMap(canvas, layers, value, top, readout, view) {
  const { heads } = view.boot;
  const width = canvas.clientWidth || 180;
  const row = Math.max(2, Math.min(ROW, Math.floor(HEIGHT / layers.length)));
  const step = width / heads;
  const gap = row > 6 && step > 6 ? 1 : 0;
  const context = contextOf(canvas, width, layers.length * row);
  const scale = colours.heat();
  for (let n = 0; n < layers.length; n++) {
    for (let h = 0; h < heads; h++) {
      if (!Number.isFinite(value(n, h))) continue; // not recorded: a gap
      const at = Math.max(0, Math.min(1, value(n, h) / top));
      context.fillStyle = scale[Math.round((scale.length - 1) * at)];
      context.fillRect(h * step, n * row, step - gap, row - gap);
    }
  }
  const at = view.head && layers.indexOf(view.head.layer);
  if (view.head && at !== null && at >= 0) {
    frame(context, view.head.head * step, at * row, step - gap, row - gap);
  }
  /** @type {(event: MouseEvent) => [number, number]} */
  const cellAt = (event) => [
    Math.max(0, Math.min(layers.length - 1, Math.floor(event.offsetY / row))),
    Math.max(0, Math.min(heads - 1, Math.floor(event.offsetX / step))),
  ];
  canvas.addEventListener("click", (event) => {
    const [n, head] = cellAt(event);
    const again = view.head?.layer === layers[n] && view.head.head === head;
    view.setHead(again ? null : { layer: layers[n], head });
  });
  canvas.addEventListener("pointermove", (event) => {
    const [n, h] = cellAt(event);
    readout.textContent = `L${layers[n]} head ${h}: ${numberOr(value(n, h), 3)}`;
  });
  canvas.addEventListener("pointerleave", () => {
    readout.textContent = AXES;
  });
}

/**
 * A frame around the chosen cell, which is seen on any colour and stays inside the map.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 */
function frame(context, x, y, width, height) {
  const [w, h] = [Math.max(LEAST, width), Math.max(LEAST, height)];
  const { clientWidth, clientHeight } = context.canvas;
  const left = Math.max(0, Math.min(clientWidth - w, x + (width - w) / 2));
  const top = Math.max(0, Math.min(clientHeight - h, y + (height - h) / 2));
  context.strokeStyle = "#000";
  context.strokeRect(left + 0.5, top + 0.5, w - 1, h - 1);
  context.strokeStyle = "#fff";
  context.strokeRect(left + 1.5, top + 1.5, w - 3, h - 3);
}

/**
 * Arrow keys choose a neighbour of the chosen head, or the first head; Enter lets go.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} layers
 * @param {View} view
 */
function keysOf(canvas, layers, view) {
  /** @type {Record<string, [number, number]>} */
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const plain = !(event.metaKey || event.ctrlKey || event.altKey);
    if (!plain || (!step && event.key !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation(); // the page's own arrow keys move between tokens
    if (!step) return view.setHead(null);
    const { head } = view;
    if (!head) return view.setHead({ layer: layers[0], head: 0 });
    const n = Math.max(0, Math.min(layers.length - 1, layers.indexOf(head.layer) + step[0]));
    const h = Math.max(0, Math.min(view.boot.heads - 1, head.head + step[1]));
    view.setHead({ layer: layers[n], head: h });
  });
}
