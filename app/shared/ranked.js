// Tables of ranked rows with bars in them, and the same bars as a chart in a file.

import { add, el } from "./dom.js";
import { termed } from "./glossary.js";

/** @import { Surface } from "./surface.js" */

/**
 * @typedef {object} Bar
 * @property {number} from Where it begins, from 0 to 1 of the width.
 * @property {number} to
 * @property {string} colour
 * @property {[number, number] | null} [range] An interval, drawn as a line.
 * @property {number} [mark] A value to compare with, drawn as a stroke.
 */

/**
 * @template R
 * @typedef {object} Column
 * @property {string} label
 * @property {string} [term] Its name in the glossary.
 * @property {boolean} [number]
 * @property {(row: R) => string | Node} show
 * @property {(row: R) => Bar | null} [bar]
 */

/** @param {Bar} bar */
function barOf({ from, to, colour, range, mark }) {
  const box = el("span", "ranked-bar");
  const fill = el("i");
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  fill.style.left = `${100 * low}%`;
  fill.style.width = `${Math.max(0.6, 100 * (high - low))}%`;
  fill.style.backgroundColor = colour;
  box.appendChild(fill);
  if (from > 0) {
    const zero = el("b");
    zero.style.left = `${100 * from}%`;
    box.appendChild(zero);
  }
  if (range) {
    const line = el("u", "range");
    line.style.left = `${100 * Math.max(0, range[0])}%`;
    line.style.width = `${100 * (Math.min(1, range[1]) - Math.max(0, range[0]))}%`;
    box.appendChild(line);
  }
  if (mark !== undefined) {
    const stroke = el("u", "even");
    stroke.style.left = `${100 * mark}%`;
    box.appendChild(stroke);
  }
  return box;
}

/**
 * @template R
 * @param {string} name Of the table, for those who do not see it.
 * @param {Column<R>[]} columns
 * @param {R[]} rows
 */
export function ranked(name, columns, rows) {
  const heads = columns.map(({ label, term, number }) => {
    const words = el("span", "", label);
    const cell = el("th", number ? "num" : "", null, { scope: "col" });
    return add(cell, term ? termed(words, term) : words);
  });
  const body = rows.map((row) =>
    add(
      el("tr"),
      ...columns.map(({ show, bar, number }) => {
        const cell = el("td", bar ? "with-bar" : number ? "num" : "");
        const found = bar?.(row);
        if (found) cell.appendChild(barOf(found));
        const shown = show(row);
        return add(cell, typeof shown === "string" ? el("span", "", shown) : shown);
      }),
    ),
  );
  const table = el("table", "ranked", null, { "aria-label": name });
  return add(table, add(el("thead"), add(el("tr"), ...heads)), add(el("tbody"), ...body));
}

const ROW = 22; // height of a bar with its name, in a file
const NAMES = 190; // width of the names

/**
 * Draws rows as bars with their names and values.
 * @param {{label: string, text: string, bar: Bar}[]} rows
 * @returns {[(surface: Surface, width: number, height: number) => void, [number, number]]} What
 *   draws it, and its size.
 */
export function barsChart(rows) {
  const style = getComputedStyle(document.documentElement);
  const [text, dim] = ["--text", "--text-3"].map((name) => style.getPropertyValue(name).trim());
  /** @type {(c: Surface, w: number) => void} */
  const draw = (c, w) => {
    const across = w - NAMES - 90;
    rows.forEach(({ label, text: value, bar }, i) => {
      const y = 8 + i * ROW;
      c.font = "12px sans-serif";
      c.textBaseline = "middle";
      c.textAlign = "right";
      c.fillStyle = text;
      c.fillText(label, NAMES - 10, y + ROW / 2);
      const [low, high] = [Math.min(bar.from, bar.to), Math.max(bar.from, bar.to)];
      c.fillStyle = bar.colour;
      c.fillRect(NAMES + low * across, y + 5, Math.max(1, (high - low) * across), ROW - 10);
      c.textAlign = "left";
      c.fillStyle = dim;
      c.fillText(value, NAMES + across + 8, y + ROW / 2);
    });
  };
  return [draw, [720, rows.length * ROW + 16]];
}
