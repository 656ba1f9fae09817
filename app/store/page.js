// Cells of the traces grid, and what the page of the store does without the server.

import { param, setParams, url } from "../shared/address.js";
import { clientside, gridCells, quietly, react, setProps } from "../shared/dash.js";
import { hit, opensElsewhere } from "../shared/dom.js";
import { go } from "../shared/host.js";

// What of an address is the list's (ringlens.app.listing.wanted).
const NAMES = ["search", "verdict", "kind", "sort", "filter"];

/** The list's part of the address, to be put behind that of a trace; "" for the whole list. */
const listAddress = () => {
  const kept = new URLSearchParams();
  for (const name of NAMES) {
    const value = param(name);
    if (value) kept.set(name, value);
  }
  return kept.size ? `?${kept}` : "";
};

/** @param {string} value */
const unlessAll = (value) => (value === "all" ? null : value);

/** @param {unknown} value */
const isMissing = (value) => value === undefined || value === null;

/**
 * The address of a trace, which keeps what the list shows: Back and the trace's neighbours need it.
 * @param {number | string} trace
 */
const hrefOf = (trace) => `/trace/${trace}${listAddress()}`;

/** @typedef {{value: any, valueFormatted?: string | null, data?: any, colDef?: any}} Cell */

/**
 * A cell that is a link to its trace, so that a middle click, a right click and Ctrl work anywhere
 * in the row. Tab goes through the ids alone.
 * @param {(cell: Cell) => unknown} draw
 * @param {{tabIndex?: number, className?: string}} [more]
 */
const linked =
  (draw, more = {}) =>
  (/** @type {Cell} */ cell) => {
    if (!cell.data) return draw(cell);
    const trace = cell.data.trace_id;
    const onClick = (/** @type {MouseEvent} */ event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      go(hrefOf(trace));
    };
    const props = { href: url(hrefOf(trace)), "data-trace": trace, tabIndex: -1, onClick };
    const className = `row-link ${more.className || ""}`;
    const drawn = draw(cell);
    const name = drawn ? {} : { "aria-label": `trace ${trace}` };
    return react("a", { ...props, ...more, ...name, className }, drawn);
  };

// Rows stay when the filter changes: their addresses are those of the moment that they are used.
for (const type of ["pointerover", "focusin"]) {
  document.addEventListener(type, (event) => {
    const link = hit(event, "a.row-link");
    if (link) link.setAttribute("href", url(hrefOf(link.dataset.trace || "")));
  });
}
document.addEventListener("keydown", (event) => {
  const row = event.key === "Enter" ? hit(event, ".traces-grid .ag-row") : null;
  if (row && !hit(event, "a")) go(hrefOf(row.getAttribute("row-id") || ""));
});

gridCells({
  Plain: linked(
    ({ value, valueFormatted }) => valueFormatted ?? (isMissing(value) ? "" : `${value}`),
  ),

  TraceLink: linked(
    ({ value }) => (isMissing(value) ? react("span", { className: "ghost-row" }) : `${value}`),
    { tabIndex: 0, className: "trace-link" },
  ),

  // The trace that a replay replays; of the same store, as far as it is there.
  SourceLink: linked(({ value }) =>
    isMissing(value)
      ? null
      : react("span", { className: "dim", title: `replays trace ${value}` }, `of ${value}`),
  ),

  Verdict: linked(({ value, data }) => {
    if (!data) return null;
    if (value === null) {
      return react("span", { className: "verdict none", title: "not judged" }, "–");
    }
    const [name, title, mark] = value ? ["good", "correct", "✓"] : ["bad", "wrong", "✗"];
    return react("span", { className: `verdict ${name}`, title }, mark);
  }),

  // A number with a bar behind it, on the scale of the largest in the store.
  Meter: linked(({ value, colDef, data }) => {
    if (!data) return null;
    if (isMissing(value)) return react("span", { className: "dim unknown" }, "not recorded");
    const { top, digits } = colDef.cellRendererParams;
    const share = Math.min(1, value / (top || 1));
    const text = digits ? value.toFixed(digits) : value.toLocaleString("en");
    const bar = react("b", null, react("i", { style: { width: `${100 * share}%` } }));
    return react("span", { className: "cell-meter" }, react("span", null, text), bar);
  }),

  Tag: linked(({ value }) => (value ? react("span", { className: `tag ${value}` }, value) : null)),
});

// The page asks for its figures anew when the store has grown since they were made.
/** @type {string | null} */
let seen = null;
window.addEventListener("ringlens:version", (event) => {
  const now = /** @type {CustomEvent<string>} */ (event).detail;
  const stats = document.getElementById("stats");
  if (stats && now !== (seen || stats.dataset.version)) setProps("heartbeat", { data: now });
  seen = now;
});

/** @param {(api: GridApi) => void} act */
const withGrid = (act) => {
  if (document.getElementById("traces")) window.dash_ag_grid?.getApiAsync("traces").then(act);
};

/**
 * Ask for the rows again, and show the first of them. Where only those are there they stay until
 * others come: an emptied grid would be drawn once more.
 * @param {GridApi} api
 */
const fromTheTop = (api) => {
  const first =
    Object.keys(api.getCacheBlockState() || {}).length === 1 && api.getDisplayedRowCount();
  if (api.getDisplayedRowCount()) api.ensureIndexVisible(0);
  if (first) api.refreshInfiniteCache();
  else api.purgeInfiniteCache();
};

clientside("store", {
  // What the grid is sorted and filtered by goes to the address.
  address: quietly((request) => {
    if (!request) return;
    /** @type {{colId: string, sort: string}[]} */
    const order = request.sortModel || [];
    const sort = order.map((by) => (by.sort === "desc" ? "-" : "") + by.colId).join(",");
    const filter = Object.keys(request.filterModel || {}).length ? request.filterModel : null;
    setParams({ sort: sort || null, filter: filter && JSON.stringify(filter) });
  }),
  // Asks the server for the rows again after a new commit, or a new filter.
  refresh: quietly(() =>
    withGrid((api) =>
      api.getDisplayedRowCount() ? api.refreshInfiniteCache() : api.purgeInfiniteCache(),
    ),
  ),
  restart: quietly((verdict, search, kind) => {
    setParams({ verdict: unlessAll(verdict), search: search || null, kind: unlessAll(kind) });
    withGrid(fromTheTop);
  }),
});
