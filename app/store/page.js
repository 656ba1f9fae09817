// Cells of the traces grid, and what the page of the store does without the server.

import { url } from "../shared/address.js";
import { clientside, gridCells, quietly, react, setProps } from "../shared/dash.js";
import { opensElsewhere } from "../shared/dom.js";
import { go } from "../shared/host.js";

/** @param {unknown} value */
const isMissing = (value) => value === undefined || value === null;

gridCells({
  TraceLink({ value }) {
    if (isMissing(value)) return react("span", { className: "ghost-row" });
    /** @param {MouseEvent} event */
    const onClick = (event) => {
      if (opensElsewhere(event)) event.stopPropagation();
      else event.preventDefault();
    };
    const href = url(`/trace/${value}`);
    return react("a", { href, className: "trace-link", onClick }, `${value}`);
  },

  // The trace that a replay replays; of the same store, as far as it is there.
  SourceLink({ value }) {
    if (isMissing(value)) return null;
    return react("span", { className: "dim", title: `replays trace ${value}` }, `of ${value}`);
  },

  Verdict({ value, data }) {
    if (!data) return null;
    if (value === null) {
      return react("span", { className: "verdict none", title: "not judged" }, "–");
    }
    const [name, title, mark] = value ? ["good", "correct", "✓"] : ["bad", "wrong", "✗"];
    return react("span", { className: `verdict ${name}`, title }, mark);
  },

  // A number with a bar behind it, on the scale of the largest in the store.
  Meter({ value, colDef, data }) {
    if (!data) return null;
    if (isMissing(value)) return react("span", { className: "dim unknown" }, "not recorded");
    const { top, digits } = colDef.cellRendererParams;
    const share = Math.min(1, value / (top || 1));
    const text = digits ? value.toFixed(digits) : value.toLocaleString("en");
    const bar = react("b", null, react("i", { style: { width: `${100 * share}%` } }));
    return react("span", { className: "cell-meter" }, react("span", null, text), bar);
  },

  Tag({ value }) {
    return value ? react("span", { className: `tag ${value}` }, value) : null;
  },
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

clientside("store", {
  open: quietly((cell) => {
    if (cell && cell.rowId !== undefined) go(`/trace/${cell.rowId}`);
  }),
  // Asks the server for the rows again after a new commit, or a new filter.
  refresh: quietly(() =>
    withGrid((api) =>
      api.getDisplayedRowCount() ? api.refreshInfiniteCache() : api.purgeInfiniteCache(),
    ),
  ),
  restart: quietly(() => withGrid((api) => api.purgeInfiniteCache())),
});
