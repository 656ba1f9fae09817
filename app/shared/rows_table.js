// A table of rows that the server sends, with links in it, and what is behind it.

import { behindButton } from "./behind.js";
import { add, el } from "./dom.js";
import { link } from "./host.js";
import { number, plural } from "./text.js";

/** @import { Made } from "./behind.js" */
/** @import { Cell } from "./csv.js" */

const SHOWN = 200; // rows on the page; the file has all

/**
 * @typedef {object} Rows
 * @property {string} title
 * @property {string} name Of its files.
 * @property {string} about
 * @property {string[]} columns
 * @property {Cell[][]} rows
 * @property {Record<string, string>} links Addresses by column; {column} stands for its value.
 * @property {Made | null} made
 */

/** @param {Cell} value */
const shown = (value) => {
  if (value === null) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : number(value, 4);
};

/**
 * The address that a column of a row leads to, if its parts are known.
 * @param {string} form
 * @param {string[]} columns
 * @param {Cell[]} row
 */
function addressOf(form, columns, row) {
  let whole = true;
  const address = form.replace(/\{(\w+)\}/g, (_, name) => {
    const value = row[columns.indexOf(name)] ?? null;
    whole &&= value !== null;
    return encodeURIComponent(String(value));
  });
  return whole ? address : null;
}

/** @param {Rows} data */
export function rowsTable(data) {
  const { title, columns, rows, links } = data;
  const numbers = columns.map((_, i) => rows.some((row) => typeof row[i] === "number"));
  const heads = columns.map((name, i) =>
    el("th", numbers[i] ? "num" : "", name.replaceAll("_", " "), { scope: "col" }),
  );
  const body = rows.slice(0, SHOWN).map((row) => {
    const cells = row.map((value, i) => {
      const cell = el("td", numbers[i] ? "num" : "");
      const form = links[columns[i]];
      const address = form ? addressOf(form, columns, row) : null;
      return add(
        cell,
        address ? link(address, "row-address", shown(value)) : el("span", "", shown(value)),
      );
    });
    return add(el("tr"), ...cells);
  });
  const table = el("table", "plain-table", null, { "aria-label": title });
  add(table, add(el("thead"), add(el("tr"), ...heads)), add(el("tbody"), ...body));
  const head = add(el("h2", "rows-head"), el("span", "", title), el("span", "spacer"));
  const behind = {
    ...data,
    rows: () => rows,
    draw: null,
    size: /** @type {[number, number]} */ ([0, 0]),
  };
  head.appendChild(behindButton(title, () => behind));
  const more = rows.length - body.length;
  const note = more > 0 ? `The first ${SHOWN} of ${plural(rows.length, "row")}.` : "";
  return add(
    el("section", "rows", null, { "aria-label": title }),
    head,
    table,
    el("p", "dim", note),
  );
}
