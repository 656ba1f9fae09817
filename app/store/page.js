// Cells of the traces grid, and what the page of the store does without the server.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const h = (...args) => window.React.createElement(...args);
  const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});

  cells.TraceLink = ({ value }) =>
    value === undefined || value === null ? h("span", { className: "ghost-row" })
      : h("a", {
          href: rl.url(`/trace/${value}`),
          className: "trace-link",
          onClick: (event) => {
            if (event.metaKey || event.ctrlKey || event.shiftKey) return event.stopPropagation();
            event.preventDefault();
          },
        }, `${value}`);

  // The trace that a replay replays; of the same store, as far as it is there.
  cells.SourceLink = ({ value }) =>
    value === undefined || value === null ? null
      : h("span", { className: "dim", title: `replays trace ${value}` }, `of ${value}`);

  cells.Verdict = ({ value, data }) => {
    if (!data) return null;
    if (value === null) return h("span", { className: "verdict none", title: "not judged" }, "–");
    return h("span", { className: value ? "verdict good" : "verdict bad", title: value ? "correct" : "wrong" },
      value ? "✓" : "✗");
  };

  // A number with a bar behind it, on the scale of the largest in the store.
  cells.Meter = ({ value, colDef, data }) => {
    if (!data) return null;
    if (value === null || value === undefined) return h("span", { className: "dim unknown" }, "not recorded");
    const { top, digits } = colDef.cellRendererParams;
    const share = Math.min(1, value / (top || 1));
    return h("span", { className: "cell-meter" },
      h("span", null, digits ? value.toFixed(digits) : value.toLocaleString("en")),
      h("b", null, h("i", { style: { width: `${100 * share}%` } })));
  };

  cells.Tag = ({ value }) => (value ? h("span", { className: `tag ${value}` }, value) : null);

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.store = {
    open(cell) {
      if (cell && cell.rowId !== undefined) rl.go(`/trace/${cell.rowId}`);
      return window.dash_clientside.no_update;
    },
    // Asks the server for the rows again after a new filter or a new commit.
    refresh(...inputs) {
      const grid = window.dash_ag_grid && inputs.length && document.getElementById("traces");
      if (grid) window.dash_ag_grid.getApiAsync("traces").then((api) =>
        api.getDisplayedRowCount() ? api.refreshInfiniteCache() : api.purgeInfiniteCache());
      return window.dash_clientside.no_update;
    },
    restart(...inputs) {
      const grid = window.dash_ag_grid && inputs.length && document.getElementById("traces");
      if (grid) window.dash_ag_grid.getApiAsync("traces").then((api) => api.purgeInfiniteCache());
      return window.dash_clientside.no_update;
    },
  };
})();
