// The page of a trace's heads: what is asked, keys and the address.

import { stripOf } from "../annotations/strip.js";
import { param, setParams } from "../shared/address.js";
import { clientside, quietly } from "../shared/dash.js";
import { pageKeys } from "../shared/dom.js";
import { fetchJson, go, server } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { decode } from "../shared/typed_arrays.js";
import { panels } from "./panels.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Boot, Head, HeadMap, Matrix, Pair } from "./types.js" */

/**
 * @typedef {object} View
 * @property {Boot} boot
 * @property {HTMLElement} root
 * @property {Strip} said What people said of the trace.
 * @property {string} measure
 * @property {Head | null} head
 * @property {Pair | null} pair
 * @property {HeadMap | null} map
 * @property {Matrix | null} matrix
 * @property {string} mapError
 * @property {string} matrixError
 * @property {ReturnType<typeof panels>} shown
 */

/** @type {View | null} */
let view = null;
let turn = 0; // of the questions: an answer to an older one comes too late

const here = () => (view && document.contains(view.root) ? view : null);

/**
 * Two whole numbers of the address.
 * @param {string} name
 * @param {string} between
 * @returns {[number, number] | null}
 */
function two(name, between) {
  const parts = (param(name) || "").split(between);
  if (parts.length !== 2 || !parts.every((part) => /^\d{1,6}$/.test(part))) return null;
  return [Number(parts[0]), Number(parts[1])];
}

/** @param {View} v */
async function readMap(v) {
  if (!v.measure) return;
  const { measure } = v;
  try {
    const body = await fetchJson(
      `/data/heads/${v.boot.trace_id}/map/${encodeURIComponent(measure)}`,
    );
    if (v.measure !== measure) return;
    /** @param {string} name */
    const array = (name) => (body[name] ? decode(body[name], "f4") : new Float32Array());
    const names = ["value", "by_chance", "p", "q"];
    v.map = { ...body, ...Object.fromEntries(names.map((name) => [name, array(name)])) };
    v.mapError = "";
  } catch (error) {
    v.mapError = messageOf(error);
  }
  v.shown.draw();
}

/** @param {View} v */
async function readMatrix(v) {
  if (!v.boot.steps.length) return;
  turn += 1;
  const mine = turn;
  const query = new URLSearchParams();
  if (v.head) query.set("layer", String(v.head.layer));
  if (v.head && v.boot.heads_kept) query.set("head", String(v.head.head));
  try {
    const body = await fetchJson(`/data/heads/${v.boot.trace_id}/steps?${query}`);
    if (turn !== mine) return;
    v.matrix = { ...body, mass: decode(body.mass, "f4") };
    v.matrixError = "";
  } catch (error) {
    if (turn === mine) v.matrixError = messageOf(error);
  }
  if (turn === mine) v.shown.draw();
}

/** @param {View} v */
async function readAll(v) {
  await Promise.all([readMap(v), readMatrix(v)]);
  if (view === v) v.root.dataset.ready = "true";
}

/**
 * @param {View} v
 * @param {Head | null} head
 */
function setHead(v, head) {
  v.head = head;
  setParams({ h: head && `${head.layer}.${head.head}` });
  v.shown.draw();
  readMatrix(v);
}

/**
 * @param {View} v
 * @param {string} measure
 */
function setMeasure(v, measure) {
  v.measure = measure;
  setParams({ metric: measure });
  readMap(v);
}

/**
 * @param {View} v
 * @param {Pair | null} pair
 */
function setPair(v, pair) {
  v.pair = pair;
  setParams({ steps: pair && `${pair.from}-${pair.to}` });
  v.shown.draw();
}

/**
 * @param {View} v
 * @param {number} number
 */
const stepOf = (v, number) => v.boot.steps.find((each) => each.step === number);

/**
 * What people said: of the trace, and of the step that looks back.
 * @param {View} v
 */
const saidOf = (v) =>
  stripOf({ trace_id: v.boot.trace_id }, server, {
    key: "a",
    pos: () => (v.pair && stepOf(v, v.pair.from)?.token_start) ?? null,
    changed: () => v.shown.draw(),
  });

/**
 * Where a step stands on the trace, with the head that looks.
 * @param {View} v
 * @param {number} number
 */
function placeOf(v, number) {
  const step = stepOf(v, number);
  const query = new URLSearchParams({ tok: String(step ? step.token_start : 0) });
  if (v.head) query.set("h", `${v.head.layer}.${v.head.head}`);
  return `/trace/${v.boot.trace_id}?${query}`;
}

/** @param {Boot | null} boot */
function mount(boot) {
  const root = document.getElementById("heads-app");
  if (!root || !boot) return;
  const asked = param("metric");
  const names = boot.measures.map((each) => each.name);
  const head = two("h", ".");
  const pair = two("steps", "-");
  const there = (/** @type {number} */ n) => boot.steps.some((each) => each.step === n);
  const acts = {
    setHead: (/** @type {Head | null} */ next) => setHead(v, next),
    setMeasure: (/** @type {string} */ next) => setMeasure(v, next),
    setPair: (/** @type {Pair | null} */ next) => setPair(v, next),
    placeOf: (/** @type {number} */ step) => placeOf(v, step),
  };
  /** @type {View} */
  const v = {
    boot,
    root,
    said: /** @type {any} */ (null),
    measure: asked && names.includes(asked) ? asked : names[0] || "",
    head: head && head[1] < boot.heads ? { layer: head[0], head: head[1] } : null,
    pair:
      pair && there(pair[0]) && there(pair[1]) && pair[1] <= pair[0]
        ? { from: pair[0], to: pair[1] }
        : null,
    map: null,
    matrix: null,
    mapError: "",
    matrixError: "",
    shown: /** @type {any} */ (null),
  };
  v.shown = panels(v, acts);
  v.said = saidOf(v);
  view = v;
  delete root.dataset.ready;
  root.replaceChildren(v.said.node, v.shown.node);
  v.shown.draw();
  readAll(v);
}

/** @type {(n: number, size: number) => number} */
const within = (n, size) => Math.max(0, Math.min(size - 1, n));

/**
 * @param {View} v
 * @param {number} byLayer
 * @param {number} byHead
 */
function stepHead(v, byLayer, byHead) {
  if (!v.map) return;
  const { layers, heads } = v.map;
  if (!v.head) return setHead(v, { layer: layers[0], head: 0 });
  const n = within(layers.indexOf(v.head.layer) + byLayer, layers.length);
  setHead(v, { layer: layers[n], head: within(v.head.head + byHead, heads) });
}

/**
 * @param {View} v
 * @param {number} byFrom
 * @param {number} byTo
 */
function stepPair(v, byFrom, byTo) {
  const numbers = v.matrix?.numbers;
  if (!numbers) return;
  if (!v.pair) return setPair(v, { from: numbers[0], to: numbers[0] });
  const from = within(numbers.indexOf(v.pair.from) + byFrom, numbers.length);
  const to = Math.min(from, within(numbers.indexOf(v.pair.to) + byTo, numbers.length));
  setPair(v, { from: numbers[from], to: numbers[to] });
}

/** @param {View} v */
function nextMeasure(v) {
  const names = v.boot.measures.map((each) => each.name);
  if (names.length) setMeasure(v, names[(names.indexOf(v.measure) + 1) % names.length]);
}

/** @type {Record<string, (v: View) => void>} */
const KEYS = {
  "[": (v) => stepHead(v, -1, 0),
  "]": (v) => stepHead(v, 1, 0),
  ArrowLeft: (v) => stepHead(v, 0, -1),
  ArrowRight: (v) => stepHead(v, 0, 1),
  Escape: (v) => setHead(v, null),
  m: nextMeasure,
  a: (v) => v.said.annotate(),
  j: (v) => stepPair(v, 1, 0),
  k: (v) => stepPair(v, -1, 0),
  J: (v) => stepPair(v, 0, 1),
  K: (v) => stepPair(v, 0, -1),
  Enter: (v) => v.pair && go(placeOf(v, v.pair.from)),
};

pageKeys(here, KEYS);
onTheme(() => here()?.shown.draw());

clientside("heads", { mount: quietly(mount) });
