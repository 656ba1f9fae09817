// A map of layers × experts: cells, names of the axes, the cell in focus, and marks.

import { contextOf } from "../shared/canvas.js";
import { add, el } from "../shared/dom.js";

/** @import { Surface } from "../shared/surface.js" */
/** @import { Cell } from "./types.js" */

const GUTTER = 30; // pixels for the names of layers
const BELOW = 16; // for those of experts
const LEAST = 26; // pixels between two names of experts
const ROW = 44; // height of a layer, at most
const NAMED = 13; // pixels that the name of a layer takes

/** @param {string} name */
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * What a map shows.
 * @typedef {object} Shown
 * @property {number[]} layers
 * @property {number} experts
 * @property {(place: number) => string | null} fill Colour of a cell; null leaves a gap.
 * @property {(place: number) => boolean} marked
 * @property {Cell | null} focus
 */

/**
 * @param {string} name Of the map, for those who do not see it.
 * @param {number} most Height of all layers, at most.
 * @param {(cell: Cell) => void} choose
 * @param {(cell: Cell | null, event: PointerEvent) => void} point
 */
export function layerMap(name, most, choose, point) {
  const node = el("div", "layer-map");
  const canvas = el("canvas", "", null, { role: "img", "aria-label": name });
  add(node, canvas);
  /** @type {Shown | null} */
  let shown = null;

  const rowOf = (/** @type {number} */ layers) =>
    Math.max(1, Math.min(ROW, Math.floor(most / Math.max(1, layers))));

  const heightOf = () => (shown ? shown.layers.length * rowOf(shown.layers.length) + BELOW : 0);

  /** @type {(c: Surface, w: number) => void} */
  function draw(c, w) {
    if (!shown) return;
    const { layers, experts, fill, marked, focus } = shown;
    const row = rowOf(layers.length);
    const step = (w - GUTTER) / experts;
    const [across, down] = [step > 5 ? 1 : 0, row > 5 ? 1 : 0];
    /** @param {number} e */
    const x = (e) => Math.round(GUTTER + e * step);
    const dot = Math.max(1.2, Math.min(2.6, step / 4, row / 4));
    for (let n = 0; n < layers.length; n++) {
      for (let e = 0; e < experts; e++) {
        const colour = fill(n * experts + e);
        if (!colour) continue;
        c.fillStyle = colour;
        c.fillRect(x(e), n * row, Math.max(1, x(e + 1) - x(e) - across), row - down);
      }
    }
    c.fillStyle = ink("--text");
    for (let n = 0; n < layers.length; n++) {
      for (let e = 0; e < experts; e++) {
        if (!marked(n * experts + e)) continue;
        c.beginPath();
        c.arc((x(e) + x(e + 1) - across) / 2, n * row + (row - down) / 2, dot, 0, 2 * Math.PI);
        c.fill();
      }
    }
    names(c, layers, experts, row, step);
    const at = focus ? layers.indexOf(focus.layer) : -1;
    if (focus && at >= 0) frame(c, x(focus.expert), at * row, Math.max(5, step), Math.max(5, row));
  }

  /**
   * @param {Surface} c
   * @param {number[]} layers
   * @param {number} experts
   * @param {number} row
   * @param {number} step
   */
  function names(c, layers, experts, row, step) {
    c.font = "10px sans-serif";
    c.fillStyle = ink("--text-3");
    c.textBaseline = "middle";
    c.textAlign = "right";
    const every = Math.ceil(NAMED / row);
    for (let n = 0; n < layers.length; n += every) {
      c.fillText(`L${layers[n]}`, GUTTER - 6, Math.max(6, n * row + row / 2));
    }
    c.textAlign = "center";
    const between = [1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 128].find((x) => x * step >= LEAST) || 128;
    for (let e = 0; e < experts; e += between) {
      c.fillText(`${e}`, GUTTER + (e + 0.5) * step, layers.length * row + BELOW - 7);
    }
  }

  /**
   * @param {Surface} c
   * @param {number} x
   * @param {number} y
   * @param {number} w
   * @param {number} h
   */
  function frame(c, x, y, w, h) {
    c.lineWidth = 2;
    c.strokeStyle = ink("--surface");
    c.strokeRect(x - 1, y - 1, w + 1, h + 1);
    c.strokeStyle = ink("--accent");
    c.strokeRect(x - 2, y - 2, w + 3, h + 3);
  }

  function paint() {
    const [w, h] = [node.clientWidth, heightOf()];
    if (!w || !h) return;
    const c = contextOf(canvas, w, h);
    c.clearRect(0, 0, w, h);
    draw(c, w);
  }

  /**
   * The cell under the pointer.
   * @param {MouseEvent} event
   * @returns {Cell | null}
   */
  function cellAt(event) {
    if (!shown) return null;
    const { layers, experts } = shown;
    const n = Math.floor(event.offsetY / rowOf(layers.length));
    const e = Math.floor(((event.offsetX - GUTTER) / (node.clientWidth - GUTTER)) * experts);
    return e >= 0 && e < experts && n < layers.length ? { layer: layers[n], expert: e } : null;
  }
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) choose(cell);
  });
  canvas.addEventListener("pointermove", (event) => point(cellAt(event), event));
  canvas.addEventListener("pointerleave", (event) => point(null, event));
  new ResizeObserver((_, observer) => {
    if (!document.contains(node)) return observer.disconnect();
    paint();
  }).observe(node);

  /** @param {Shown} next */
  function show(next) {
    shown = next;
    paint();
  }
  return { node, show, draw, height: heightOf };
}
