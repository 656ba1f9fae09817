// The routing page between its server callbacks: clicks, keys and the URL.

import { intParam, setParams } from "../shared/address.js";
import { clientside, noUpdate, quietly, setProps } from "../shared/dash.js";
import { hit, inDialog, part, typing } from "../shared/dom.js";
import { go } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { target } from "./goto.js";
import { framed, keep, pan, reveal, showWhole, zoom } from "./zoom.js";

/** @import { Shape } from "./zoom.js" */

const CLOSER = 0.6; // what a key zooms in by

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

/** The shape of the map on the page; null on other pages. */
const shapeHere = () => {
  const page = document.getElementById("routing-page");
  return page && /** @type {Shape} */ (JSON.parse(page.dataset.shape || ""));
};

/**
 * Move the focus by a layer or an expert.
 * @param {Shape} shape
 * @param {[number, number]} move
 */
function step(shape, move) {
  const now = current(shape);
  const at = bounded(shape.layers.indexOf(now.L) + move[0], shape.layers.length - 1);
  const first = move[1] ? 0 : null;
  const expert = now.E === null ? first : bounded(now.E + move[1], shape.experts - 1);
  setFocus({ L: shape.layers[at], E: expert });
  if (expert !== null) reveal(shape, shape.layers[at], expert, false);
}

/** @type {Record<string, (shape: Shape) => void>} */
const KEYS = {
  "/": () => gotoBox()?.select(),
  "+": (shape) => zoom(shape, CLOSER, current(shape)),
  "=": (shape) => zoom(shape, CLOSER, current(shape)),
  "-": (shape) => zoom(shape, 1 / CLOSER, current(shape)),
  0: showWhole,
};
/** @type {Record<string, [number, number]>} */
const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  const shape = shapeHere();
  if (!shape) return;
  if (event.target === gotoBox()) return inGoto(event, shape);
  if (typing(event) || inDialog() || hit(event, "[role=radiogroup], input")) return;
  const [move, by] = [MOVES[event.key], PANS[event.key]];
  if (event.shiftKey && by) pan(shape, ...by);
  else if (move) step(shape, move);
  else if (KEYS[event.key]) KEYS[event.key](shape);
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const item = hit(event, "[data-focus]");
  if (item) setCell(item.dataset.focus || "");
  const how = hit(event, "[data-zoom]")?.dataset.zoom;
  const shape = how && shapeHere();
  if (!shape) return;
  if (how === "whole") showWhole(shape);
  else zoom(shape, how === "in" ? CLOSER : 1 / CLOSER, current(shape));
});

// --- go to ----------------------------------------------------------------------------------------

/** @returns {HTMLInputElement | null} */
const gotoBox = () => {
  const found = document.getElementById("goto");
  return found instanceof HTMLInputElement ? found : null;
};

/**
 * @param {KeyboardEvent} event
 * @param {Shape} shape
 */
function inGoto(event, shape) {
  const box = gotoBox();
  if (!box || (event.key !== "Enter" && event.key !== "Escape")) return;
  event.preventDefault();
  if (event.key === "Escape") {
    said("");
    return box.blur();
  }
  try {
    const focus = target(box.value, shape, current(shape));
    said("");
    setFocus(focus);
    if (focus.E !== null) reveal(shape, focus.L, focus.E, true);
    box.blur();
  } catch (error) {
    said(messageOf(error));
  }
}

/** @param {string} text */
const said = (text) => {
  part("goto-said").textContent = text;
};

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
  /** The figure of the server, of all of the map, shows the part that one looks at. */
  framed(figure) {
    const shape = shapeHere();
    return figure && shape ? framed(figure, shape) : noUpdate();
  },
  zoomed: quietly(() => {
    const shape = shapeHere();
    if (shape) keep(shape);
  }),
  row: quietly((cell) => cell && setCell(cell.rowId)),
  url: quietly((metric, phase) => setParams({ metric, phase })),
  scope: quietly((run) => go(run ? `/routing?run=${encodeURIComponent(run)}` : "/routing")),
});
