// An answer in the grid: its columns, how they are sorted, and links to where a row comes from.

import { url } from "../shared/address.js";
import { gridCells, react } from "../shared/dash.js";
import { opensElsewhere } from "../shared/dom.js";
import { go } from "../shared/host.js";

/**
 * What the server answers to a query.
 * @typedef {object} Answer
 * @property {string} id
 * @property {{name: string, type: string, number: boolean}[]} columns
 * @property {(string | number | boolean | null)[][]} rows
 * @property {"rows" | "bytes" | null} cut
 * @property {number} seconds
 * @property {string} frame
 * @property {string} query
 */

/** Types whose values are shown as text. */
const TEXTUAL = /^(list|fixed|struct|tuple|map|blob|bit|variant|geometry)/;

/** @param {Answer["columns"][number]} column */
export const isSimple = (column) => !TEXTUAL.test(column.type);

/** @param {Answer} answer */
export const rowsOf = (answer) =>
  answer.rows.map((row) => Object.fromEntries(row.map((value, i) => [`c${i}`, value])));

/**
 * Columns that say where in its trace a row is, for a link there; null where there is no trace.
 * @param {Answer} answer
 * @param {Answer["columns"][number]} column
 */
const placeOf = (answer, column) => {
  if (column.name !== "trace_id" || !column.number) return null;
  /** @param {string} name */
  const at = (name) => answer.columns.findIndex((each) => each.name === name && each.number);
  return { tok: at("pos"), L: at("layer") };
};

/**
 * Columns that say which expert a row is about, for a link to its card; null where it has none.
 * @param {Answer} answer
 * @param {Answer["columns"][number]} column
 */
const expertOf = (answer, column) => {
  if (column.name !== "expert" || !column.number) return null;
  /** @type {(name: string) => number} */
  const at = (name) => answer.columns.findIndex((each) => each.name === name);
  const layer = at("layer");
  return layer >= 0 && answer.columns[layer].number ? { layer, run: at("run_id") } : null;
};

/**
 * Numbers that JavaScript would round come as text: they are sorted as numbers all the same.
 * @param {string | number | null} a
 * @param {string | number | null} b
 */
const byNumber = (a, b) => {
  if (a === null || b === null) return Number(a !== null) - Number(b !== null);
  const [x, y] = [a, b].map((each) => Number(String(each).replace(/inf$/, "Infinity")));
  if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y));
  const whole = [a, b].every((each) => /^-?\d+$/.test(String(each)));
  if (x !== y || Number.isSafeInteger(x) || !whole) return x < y ? -1 : x > y ? 1 : 0;
  return BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0;
};

/**
 * Characters of a column's longest value, as far as is looked.
 * @param {Answer} answer
 * @param {number} i
 */
const longestOf = (answer, i) => {
  let longest = answer.columns[i].name.length + 2;
  for (const row of answer.rows.slice(0, 200)) {
    longest = Math.max(longest, row[i] === null ? 4 : String(row[i]).length);
  }
  return longest;
};

/** @param {Answer} answer */
export const columnsOf = (answer) =>
  answer.columns.map((column, i) => {
    const longest = longestOf(answer, i);
    const numeric = { type: "rightAligned", cellClass: "num ag-right-aligned-cell" };
    return {
      field: `c${i}`,
      headerName: column.name,
      headerTooltip: `${column.name}: ${column.type}`,
      width: Math.round(Math.min(460, Math.max(76, 7.8 * longest + 32))),
      ...(column.number ? { ...numeric, comparator: byNumber } : {}),
      ...(isSimple(column) ? {} : { cellClass: "mono dim" }),
      cellRenderer: "SqlCell",
      cellRendererParams: { token: placeOf(answer, column), card: expertOf(answer, column) },
      tooltipField: longest > 60 ? `c${i}` : undefined,
    };
  });

/**
 * Where a cell leads: a trace, or the card of an expert; null for nowhere.
 * @param {string | number} value
 * @param {Record<string, any>} data Of its row.
 * @param {{token: Record<string, number> | null, card: {layer: number, run: number} | null}} cell
 */
function addressOf(value, data, { token, card }) {
  /** @type {(i: number) => any} */
  const at = (i) => data[`c${i}`] ?? null;
  const where = new URLSearchParams();
  if (card) {
    if (at(card.layer) === null) return null;
    if (at(card.run) !== null) where.set("run", at(card.run));
  } else if (token) {
    for (const [name, i] of Object.entries(token)) if (at(i) !== null) where.set(name, at(i));
  } else return null;
  const path = card ? `/expert/${at(card.layer)}/${value}` : `/trace/${value}`;
  return `${path}${where.size ? `?${where}` : ""}`;
}

gridCells({
  SqlCell({ value, data, colDef }) {
    if (value === null || value === undefined) {
      return react("span", { className: "sql-null" }, "null");
    }
    const href = addressOf(value, data, colDef.cellRendererParams);
    if (href === null) return String(value);
    /** @param {MouseEvent} event */
    const onClick = (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      go(href);
    };
    return react("a", { href: url(href), className: "sql-link", onClick }, String(value));
  },
});
