// The routing page between its server callbacks: clicks, keys and the URL.

import { intParam, setParams } from "../shared/address.js";
import { clientside, noUpdate, quietly, setProps } from "../shared/dash.js";
import { hit, inDialog, typing } from "../shared/dom.js";
import { go } from "../shared/host.js";

/**
 * Layers that have experts, and how many experts each has.
 * @typedef {{layers: number[], experts: number}} Shape
 */

/** @param {Shape} shape */
const current = (shape) => ({ L: intParam("L") ?? shape.layers[0], E: intParam("E") });

/** @param {{L: number, E: number | null}} focus */
const setFocus = (focus) => {
  setParams(focus);
  setProps("focus", { data: focus });
};

/** @param {string} cell */
const setCell = (cell) => {
  const [L, E] = cell.split(",").map(Number);
  setFocus({ L, E });
};

// What each key adds to the layer's place and to the expert.
/** @type {Record<string, [number, number]>} */
const MOVES = { "[": [-1, 0], "]": [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/**
 * @param {number} value
 * @param {number} last
 */
const bounded = (value, last) => Math.max(0, Math.min(last, value));

document.addEventListener("keydown", (event) => {
  const page = document.getElementById("routing-page");
  if (!page || typing(event) || inDialog()) return;
  const move = MOVES[event.key];
  if (!move || hit(event, "[role=radiogroup], input")) return;
  event.preventDefault();
  /** @type {Shape} */
  const shape = JSON.parse(page.dataset.shape || "");
  const now = current(shape);
  const at = bounded(shape.layers.indexOf(now.L) + move[0], shape.layers.length - 1);
  const first = move[1] ? 0 : null;
  const expert = now.E === null ? first : bounded(now.E + move[1], shape.experts - 1);
  setFocus({ L: shape.layers[at], E: expert });
});

document.addEventListener("click", (event) => {
  const item = hit(event, "[data-focus]");
  if (item) setCell(item.dataset.focus || "");
});

clientside("routing", {
  /** A click on the heatmap, on the load bars or on a balance bar moves the focus. */
  focus(click, shape) {
    if (!click?.points?.length) return noUpdate();
    const point = click.points[0];
    const focus = current(shape);
    if (point.curveNumber === 0) Object.assign(focus, { L: point.y, E: point.x });
    else if (point.curveNumber === 1) focus.E = point.x;
    else focus.L = point.y;
    setParams(focus);
    return focus;
  },
  row: quietly((cell) => cell && setCell(cell.rowId)),
  url: quietly((metric, phase) => setParams({ metric, phase })),
  scope: quietly((run) => go(run ? `/routing?run=${encodeURIComponent(run)}` : "/routing")),
});
