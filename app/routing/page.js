// The routing page between its server callbacks: clicks, keys and the URL.
(function () {
  const rl = (window.ringlens = window.ringlens || {});

  document.addEventListener("keydown", (event) => {
    const page = document.getElementById("routing-page");
    if (!page || rl.typing(event) || document.querySelector("dialog[open]")) return;
    const moves = { "[": [-1, 0], "]": [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move || event.target.closest("[role=radiogroup], input")) return;
    event.preventDefault();
    const shape = JSON.parse(page.dataset.shape);
    const now = { L: rl.intParam("L") ?? shape.layers[0], E: rl.intParam("E") };
    const at = Math.max(0, Math.min(shape.layers.length - 1, shape.layers.indexOf(now.L) + move[0]));
    const expert = now.E === null ? (move[1] ? 0 : null) : Math.max(0, Math.min(shape.experts - 1, now.E + move[1]));
    const focus = { L: shape.layers[at], E: expert };
    rl.setParams(focus);
    window.dash_clientside.set_props("focus", { data: focus });
  });

  document.addEventListener("click", (event) => {
    const item = event.target.closest && event.target.closest("[data-focus]");
    if (!item) return;
    setFocus(item.dataset.focus);
  });

  function setFocus(cell) {
    const [L, E] = cell.split(",").map(Number);
    rl.setParams({ L, E });
    window.dash_clientside.set_props("focus", { data: { L, E } });
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.routing = {
    // A click on the heatmap, on the load bars or on a balance bar moves the focus.
    focus(click, shape) {
      if (!click || !click.points || !click.points.length) return window.dash_clientside.no_update;
      const point = click.points[0];
      const focus = { L: rl.intParam("L") ?? shape.layers[0], E: rl.intParam("E") };
      if (point.curveNumber === 0) Object.assign(focus, { L: point.y, E: point.x });
      else if (point.curveNumber === 1) focus.E = point.x;
      else focus.L = point.y;
      rl.setParams(focus);
      return focus;
    },
    row(cell) {
      if (cell) setFocus(cell.rowId);
      return window.dash_clientside.no_update;
    },
    url(metric, phase) {
      rl.setParams({ metric, phase });
      return window.dash_clientside.no_update;
    },
    scope(run) {
      rl.go(run ? `/routing?run=${encodeURIComponent(run)}` : "/routing");
      return window.dash_clientside.no_update;
    },
  };
})();
