// The attention heads at the focused token: a small heatmap of layers × heads for each statistic.

import { contextOf } from "../shared/canvas.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { number, numberOr } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";

/** @import { HeadsBlock, HeadStatistic, HeadTable, View } from "./types.js" */

const AXES = "layer ↓  head →";
const HEIGHT = 180; // of a map, at most
const ROW = 11; // height of a row, at most

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
    grid.appendChild(headMap(statistic, block.layers, boot.heads, value, readout));
  }
  add(box, add(el("h3", "", block.table.title), readout), grid);
}

/**
 * @param {HeadStatistic} statistic
 * @param {number[]} layers
 * @param {number} heads
 * @param {(n: number, h: number) => number} value
 * @param {HTMLElement} readout
 */
function headMap(statistic, layers, heads, value, readout) {
  const { label, meaning, unit } = statistic;
  const canvas = el("canvas", "", null, {
    role: "img",
    "aria-label": `${label} by layer and head`,
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
  const caption = add(el("figcaption", "", label, { title: meaning }), el("span", "dim", known));
  requestAnimationFrame(() => drawMap(canvas, layers, heads, value, top, readout));
  return add(el("figure"), caption, canvas);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} layers
 * @param {number} heads
 * @param {(n: number, h: number) => number} value
 * @param {number} top
 * @param {HTMLElement} readout
 */
function drawMap(canvas, layers, heads, value, top, readout) {
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
  canvas.addEventListener("pointermove", (event) => {
    const n = Math.min(layers.length - 1, Math.floor(event.offsetY / row));
    const h = Math.min(heads - 1, Math.floor(event.offsetX / step));
    readout.textContent = `L${layers[n]} head ${h}: ${numberOr(value(n, h), 3)}`;
  });
  canvas.addEventListener("pointerleave", () => {
    readout.textContent = AXES;
  });
}
