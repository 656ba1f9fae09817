// The tables and views of the store: each opens to its columns, which a click puts into the query.

import { add, el, part } from "../shared/dom.js";

/** @import { Table } from "./completion.js" */

/** @param {Table[]} tables */
export function listTables(tables) {
  for (const kind of ["table", "view"]) {
    const mine = tables.filter((each) => each.kind === kind);
    part(`sql-${kind}s`).replaceChildren(...mine.map(row));
  }
}

/** @param {Table} table */
function row({ name, meaning, columns }) {
  const details = el("details", "sql-table", null, {
    "data-names": [name, ...columns.map(([column]) => column)].join(" "),
  });
  const summary = add(el("summary"), el("span", "mono", name));
  add(details, summary, el("p", "sql-meaning", meaning), ...columns.map(columnButton));
  const insert = { type: "button", "data-insert": name, title: `Put ${name} into the query` };
  return add(el("div", "sql-table-row"), details, el("button", "sql-insert", "insert", insert));
}

/** @param {[string, string, string]} column Name, type and meaning. */
const columnButton = ([name, type, meaning]) =>
  add(
    el("button", "sql-column", null, { type: "button", "data-insert": name }),
    el("span", "mono", name),
    el("span", "sql-type", type),
    el("span", "sql-meaning", meaning),
  );

/**
 * Show the tables and columns whose name holds a text.
 * @param {string} wanted
 */
export function filterTables(wanted) {
  for (const table of document.querySelectorAll("details.sql-table")) {
    if (!(table instanceof HTMLDetailsElement)) continue;
    const names = table.dataset.names || "";
    const found = names.includes(wanted);
    table.hidden = !found;
    table.open = Boolean(wanted) && found;
    const whole = names.split(" ")[0].includes(wanted);
    for (const column of table.querySelectorAll("button.sql-column")) {
      if (!(column instanceof HTMLElement)) continue;
      column.hidden = !whole && !column.dataset.insert?.includes(wanted);
    }
  }
}
