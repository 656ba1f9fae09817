// A map of rows × columns: cells, names of both axes, marks, and the cell in focus.

import { contextOf } from "./canvas.js";
import { add, el } from "./dom.js";
import { ink } from "./theme.js";

/** @import { Surface } from "./surface.js" */

const GUTTER = 34; // pixels for the names of rows
const BELOW = 18; // for those of columns
const NAMED = 13; // pixels that the name of a row takes
const HALF = 6; // half the height of a name
const LEAST = 26; // pixels between the names of two columns
const STEPS = [1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 128]; // columns from one name to the next

/** @typedef {{row: number, column: number}} Place */

/**
 * What the colours of a map mean.
 * @param {string} low
 * @param {string} high
 * @param {string[]} scale
 */
export function legend(low, high, scale) {
  const bar = el("i", "legend-bar");
  bar.style.background = `linear-gradient(90deg, ${scale.join(", ")})`;
  return add(el("span", "legend"), el("span", "", low), bar, el("span", "", high));
}

/**
 * What a map shows; rows and columns are named by their places.
 * @typedef {object} Grid
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {(place: number) => string | null} fill Colour of a cell; null leaves a gap.
 * @property {(place: number) => boolean} [marked]
 * @property {Place | null} focus
 */

/**
 * @param {string} name Of the map, for those who do not see it.
 * @param {(grid: Grid, width: number) => number} rowHeight Of a row, in pixels.
 * @param {(place: Place) => void} choose
 * @param {(place: Place | null, event: PointerEvent) => void} point
 */
export function gridMap(name, rowHeight, choose, point) {
  const node = el("div", "grid-map");
  const canvas = el("canvas", "", null, { role: "img", "aria-label": name });
  add(node, canvas);
  /** @type {Grid | null} */
  let shown = null;

  /** @param {number} w */
  const heightOf = (w) => (shown ? shown.rows.length * rowHeight(shown, w) + BELOW : 0);

  /** @type {(c: Surface, w: number) => void} */
  function draw(c, w) {
    if (!shown) return;
    const { rows, columns, fill, marked, focus } = shown;
    const high = rowHeight(shown, w);
    const step = (w - GUTTER) / columns.length;
    const [across, down] = [step > 5 ? 1 : 0, high > 5 ? 1 : 0];
    /** @param {number} i */
    const x = (i) => Math.round(GUTTER + i * step);
    /** @param {number} i */
    const y = (i) => Math.round(i * high);
    for (let r = 0; r < rows.length; r++) {
      for (let k = 0; k < columns.length; k++) {
        const colour = fill(r * columns.length + k);
        if (!colour) continue;
        c.fillStyle = colour;
        const wide = Math.max(1, x(k + 1) - x(k) - across);
        c.fillRect(x(k), y(r), wide, Math.max(1, y(r + 1) - y(r) - down));
      }
    }
    if (marked) dots(c, marked, x, y);
    names(c, high, step);
    if (!focus) return;
    const [fx, fy] = [x(focus.column), y(focus.row)];
    const [fw, fh] = [Math.max(6, step), Math.max(6, high)];
    c.lineWidth = 2;
    c.strokeStyle = ink("--surface");
    c.strokeRect(fx - 1, fy - 1, fw + 1, fh + 1);
    c.strokeStyle = ink("--accent");
    c.strokeRect(fx - 2, fy - 2, fw + 3, fh + 3);
  }

  /** @type {(c: Surface, marked: (i: number) => boolean, x: (i: number) => number, y: (i: number) => number) => void} */
  function dots(c, marked, x, y) {
    if (!shown) return;
    const { rows, columns } = shown;
    const size = Math.max(1.2, Math.min(2.6, (x(1) - x(0)) / 4, (y(1) - y(0)) / 4));
    c.fillStyle = ink("--text");
    for (let i = 0; i < rows.length * columns.length; i++) {
      if (!marked(i)) continue;
      const [r, k] = [Math.floor(i / columns.length), i % columns.length];
      c.beginPath();
      c.arc((x(k) + x(k + 1)) / 2, (y(r) + y(r + 1)) / 2, size, 0, 2 * Math.PI);
      c.fill();
    }
  }

  /** @type {(c: Surface, high: number, step: number) => void} */
  function names(c, high, step) {
    if (!shown) return;
    const { rows, columns } = shown;
    c.font = "10px sans-serif";
    c.fillStyle = ink("--text-3");
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (let r = 0; r < rows.length; r += Math.ceil(NAMED / high)) {
      c.fillText(rows[r], GUTTER - 6, Math.max(HALF, (r + 0.5) * high)); // wholly on the canvas
    }
    c.textAlign = "center";
    const between = STEPS.find((steps) => steps * step >= LEAST) || STEPS[STEPS.length - 1];
    for (let k = 0; k < columns.length; k += between) {
      c.fillText(columns[k], GUTTER + (k + 0.5) * step, rows.length * high + BELOW - 8);
    }
  }

  function paint() {
    const w = node.clientWidth;
    const h = heightOf(w);
    if (!w || !h) return;
    const c = contextOf(canvas, w, h);
    c.clearRect(0, 0, w, h);
    draw(c, w);
  }

  /**
   * The cell under the pointer.
   * @param {MouseEvent} event
   * @returns {Place | null}
   */
  function placeAt(event) {
    if (!shown) return null;
    const w = node.clientWidth;
    const row = Math.floor(event.offsetY / rowHeight(shown, w));
    const step = (w - GUTTER) / shown.columns.length;
    const column = Math.floor((event.offsetX - GUTTER) / step);
    const inside = column >= 0 && column < shown.columns.length && row < shown.rows.length;
    return inside ? { row, column } : null;
  }
  canvas.addEventListener("click", (event) => {
    const place = placeAt(event);
    if (place) choose(place);
  });
  canvas.addEventListener("pointermove", (event) => point(placeAt(event), event));
  canvas.addEventListener("pointerleave", (event) => point(null, event));
  new ResizeObserver((_, observer) => {
    if (!document.contains(node)) return observer.disconnect();
    paint();
  }).observe(node);

  /** @param {Grid} next */
  function show(next) {
    shown = next;
    paint();
  }
  return { node, show, draw, height: heightOf };
}
