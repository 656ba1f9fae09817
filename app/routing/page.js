// The routing page between its server callbacks: the map, clicks, keys and the URL.

import { intParam, setParams } from "../shared/address.js";
import { clientside, quietly, setProps } from "../shared/dash.js";
import { hit, inDialog, part, typing } from "../shared/dom.js";
import { go, server } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { target } from "./goto.js";
import { usageMap } from "./map.js";
import { readExperts, saidOfExpert } from "./said.js";
import { decodedUsage } from "./usage.js";
import { panned, revealing, whole, zoomed } from "./zoom.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Focus, Sent, Shape, Usage, UsageMap } from "./types.js" */

const CLOSER = 0.6; // what a key zooms in by

/** @param {Shape} shape @returns {Focus} */
const current = (shape) => ({ L: intParam("L") ?? shape.layers[0], E: intParam("E") });

/** @type {UsageMap | null} */
let shown = null;

/** The map, while it is on the page. */
const mapHere = () => (shown && document.contains(shown.node) ? shown : null);

/** @type {Strip | null} */
let strip = null;

/** Show what people said of the expert in focus. */
function tell() {
  const shape = shapeHere();
  const box = document.getElementById("expert-said");
  if (!shape || !box) return;
  const { L, E } = current(shape);
  strip = saidOfExpert(shape, { L, E }, server);
  box.replaceChildren(...(strip ? [strip.node] : []));
}

/** @param {Focus} focus */
const setFocus = (focus) => {
  setParams({ ...focus });
  mapHere()?.mark();
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
  if (expert !== null) reveal(shape.layers[at], expert, false);
}

/**
 * Have an expert on screen.
 * @type {(layer: number, expert: number, closer: boolean) => void}
 */
function reveal(layer, expert, closer) {
  const map = mapHere();
  if (!map) return;
  map.look(revealing(map.window(), layer, expert, closer));
  if (closer) map.scrollTo(layer);
}

/** @param {number} factor */
const zoom = (factor) => {
  const map = mapHere();
  map?.look(zoomed(map.window(), factor, current(map.shape)));
};

const showWhole = () => {
  const map = mapHere();
  map?.look(whole(map.shape));
};

/** @type {(right: number, down: number) => void} */
const pan = (right, down) => {
  const map = mapHere();
  map?.look(panned(map.window(), right, down));
};

/** @type {Record<string, () => void>} */
const KEYS = {
  "/": () => gotoBox()?.select(),
  a: () => strip?.annotate(),
  "+": () => zoom(CLOSER),
  "=": () => zoom(CLOSER),
  "-": () => zoom(1 / CLOSER),
  0: showWhole,
};
/** @type {Record<string, [number, number]>} */
const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  const shape = shapeHere();
  if (!shape) return;
  if (event.target === gotoBox()) return inGoto(event, shape);
  // A choice of several is left with the arrows that move it; other keys are the page's.
  const inChoice = hit(event, "[role=radiogroup]") !== null;
  if (inDialog() || (inChoice ? event.key.startsWith("Arrow") : typing(event))) return;
  const [move, by] = [MOVES[event.key], PANS[event.key]];
  if (event.shiftKey && by) pan(...by);
  else if (move) step(shape, move);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const item = hit(event, "[data-focus]");
  if (item) setCell(item.dataset.focus || "");
  const how = hit(event, "[data-zoom]")?.dataset.zoom;
  if (how === "whole") showWhole();
  else if (how) zoom(how === "in" ? CLOSER : 1 / CLOSER);
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
    if (focus.E !== null) reveal(focus.L, focus.E, true);
    box.blur();
  } catch (error) {
    said(messageOf(error));
  }
}

/** @param {string} text */
const said = (text) => {
  part("goto-said").textContent = text;
};

// --- the map --------------------------------------------------------------------------------------

/** @type {Usage | null} */
let drawn = null;

/** @param {Sent | null} sent */
function draw(sent) {
  const frame = document.getElementById("heatmap");
  const shape = shapeHere();
  if (!sent || !frame || !shape) return;
  if (!mapHere()) {
    readExperts(shape, server);
    shown = usageMap(
      shape,
      () => current(shape),
      (found) => setFocus({ ...current(shape), ...found }),
      server,
    );
    frame.replaceChildren(shown.node);
  }
  drawn = decodedUsage(sent);
  shown?.draw(drawn);
}

onTheme(() => drawn && mapHere()?.draw(drawn));

clientside("routing", {
  draw: quietly(draw),
  focused: quietly(() => {
    mapHere()?.mark();
    tell();
  }),
  row: quietly((cell) => cell && setCell(cell.rowId)),
  url: quietly((metric, phase) => setParams({ metric, phase })),
  scope: quietly((run) => go(run ? `/routing?run=${encodeURIComponent(run)}` : "/routing")),
});
