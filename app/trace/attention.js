// What a chosen head attends to from the focused token: read, painted on the text, listed.

import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { number, percent, plural, visible } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { blocksOf } from "./blocks.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Blocks } from "./blocks.js" */
/** @import { AttentionBlock, Boot, Head, HeadsBlock, HeadSources, Ramp, Sources, View } from "./types.js" */

const LISTED = 12; // sources in the panel, at most
const FAINTEST = 3; // bin of the least weight: what was recorded is never without a colour
const FULL = 0.5; // weight with the full colour where the largest is not known
const K = 8; // positions that the panel suggests to record

/** @param {Head} head */
export const named = (head) => `L${head.layer} head ${head.head}`;

/**
 * The head that the address names; null where there is none.
 * @param {string | null} text
 * @param {Boot} boot
 * @returns {Head | null}
 */
export function headIn(text, boot) {
  const [, layer, head] = (text || "").match(/^(\d{1,6})\.(\d{1,6})$/) || [];
  const found = { layer: Number(layer), head: Number(head) };
  return found.layer < boot.layers && found.head < boot.heads ? found : null;
}

/** @param {number} value */
const weight = (value) => (value > 0 && value < 0.0005 ? "< 0.001" : number(value, 3));

/** @param {Head} head */
export const headText = (head) => `${head.layer}.${head.head}`;

// --- reading --------------------------------------------------------------------------------------

/**
 * @param {any} body
 * @returns {AttentionBlock}
 */
const decodeAttention = (body) => ({
  start: body.start,
  tokens: body.tokens,
  layers: body.layers,
  k: body.k,
  positions: decode(body.positions, "u4"),
  weights: decode(body.weights, "f4"),
});

/**
 * Where heads look: their heaviest positions; else the two tokens whose weights are statistics.
 * @param {Host} host
 * @param {Boot} boot
 * @param {Map<string, Blocks<HeadsBlock>>} statistics
 * @returns {HeadSources}
 */
export function headSources(host, boot, statistics) {
  const listed = new Set(
    boot.attention_heads.flatMap(([layer, heads]) =>
      heads.map((head) => headText({ layer, head })),
    ),
  );
  /** @type {Map<string, Blocks<AttentionBlock>>} */
  const kept = new Map();
  const marks = statistics.get("heads");

  /** @param {Head} head */
  function positionsOf(head) {
    const name = headText(head);
    if (!listed.has(name)) return undefined;
    const address = `/data/trace/${boot.trace_id}/attention/${name}`;
    const found = kept.get(name) || blocksOf(host, address, decodeAttention);
    kept.set(name, found);
    return found;
  }

  return {
    find(head, pos) {
      const positions = positionsOf(head);
      const block = positions?.find(pos);
      if (positions && !block) return undefined;
      const found = block && heaviest(block, pos);
      if (found) return found;
      const near = marks?.find(pos);
      if (marks && !near) return undefined;
      return (near && twoTokens(near, head, pos)) || { of: "nothing", positions: [], weights: [] };
    },
    async load(head, pos) {
      const block = await positionsOf(head)?.load(pos);
      const found = block && heaviest(block, pos);
      if (found) return found;
      const near = await marks?.load(pos);
      return (near && twoTokens(near, head, pos)) || { of: "nothing", positions: [], weights: [] };
    },
  };
}

/**
 * The recorded positions of a token; null where none are.
 * @param {AttentionBlock} block
 * @param {number} pos
 * @returns {Sources | null}
 */
function heaviest({ start, k, positions, weights }, pos) {
  const row = Array.from({ length: k }, (_, i) => (pos - start) * k + i);
  const known = row.filter((i) => Number.isFinite(weights[i]));
  if (!known.length) return null;
  return {
    of: "heaviest",
    positions: known.map((i) => positions[i]),
    weights: known.map((i) => weights[i]),
  };
}

/**
 * The first and the previous token, whose weights are statistics of a head.
 * @param {HeadsBlock} block
 * @param {Head} head
 * @param {number} pos
 * @returns {Sources | null}
 */
function twoTokens(block, { layer, head }, pos) {
  const { first_weight, previous_weight } = block.columns;
  const n = block.layers.indexOf(layer);
  if (n < 0 || !first_weight || !previous_weight) return null;
  const heads = first_weight.length / (block.layers.length * block.tokens);
  const at = (n * block.tokens + pos - block.start) * heads + head;
  /** @type {[number, number][]} */
  const pairs = [[0, first_weight[at]]];
  if (pos > 1) pairs.push([pos - 1, previous_weight[at]]);
  const known = pairs.filter(([, weight]) => Number.isFinite(weight)).sort((a, b) => b[1] - a[1]);
  if (!known.length) return null;
  return {
    of: "two tokens",
    positions: known.map(([place]) => place),
    weights: known.map(([, weight]) => weight),
  };
}

// --- painting -------------------------------------------------------------------------------------

/**
 * Weight at the end of the scale: the largest; where it may not be recorded, at least `FULL`.
 * @param {Sources} sources
 */
const topOf = (sources) =>
  sources.weights.reduce((a, b) => Math.max(a, b), sources.of === "two tokens" ? FULL : 0) || 1;

/**
 * Weights as colours, on the scale of the largest.
 * @param {Sources} sources
 * @param {number} count
 * @returns {Ramp}
 */
export function paintOfHead(sources, count) {
  const values = new Float32Array(count).fill(Number.NaN);
  const bins = new Uint16Array(count);
  const top = topOf(sources);
  sources.positions.forEach((place, i) => {
    const value = sources.weights[i];
    values[place] = value;
    const bin = Math.round((colours.BINS - 1) * (value / top));
    bins[place] = value > 0 ? Math.max(FAINTEST, bin) : 0;
  });
  const palette = colours.ramp("attention");
  return { kind: "ramp", of: "attention", bins, palette, values, unknown: 0, top, reversed: false };
}

/**
 * What is known of the weight of a token, for its hover.
 * @param {View} view
 * @param {number} i
 */
export function weightOf(view, i) {
  const { pos, paint, sources } = view;
  if (pos === null || !sources || paint?.kind !== "ramp") return "not recorded";
  if (!Number.isNaN(paint.values[i])) return weight(paint.values[i]);
  if (i > pos) return "0, it comes later";
  if (sources.of !== "heaviest") return "not recorded";
  return `not among the ${sources.positions.length} recorded`;
}

// --- the panel ------------------------------------------------------------------------------------

/**
 * Which head is shown, and a choice among those whose positions were recorded.
 * @param {View} view
 */
export function headChoice(view) {
  const { boot, head } = view;
  const row = add(
    el("h3", "head-choice"),
    el("span", "", head ? named(head) : "Where a head looks"),
  );
  if (boot.attention_heads.length) {
    const select = el("select", "", null, { "aria-label": "Head whose positions were recorded" });
    select.appendChild(el("option", "", "recorded heads", { value: "" }));
    for (const [layer, heads] of boot.attention_heads) {
      for (const each of heads) {
        const one = { layer, head: each };
        select.appendChild(el("option", "", named(one), { value: headText(one) }));
      }
    }
    select.value = head ? headText(head) : "";
    if (select.selectedIndex < 0) select.value = "";
    select.addEventListener("change", () => view.setHead(headIn(select.value, boot)));
    row.appendChild(select);
  }
  if (head) row.appendChild(closer(view));
  return row;
}

/**
 * Lets go of the head.
 * @param {View} view
 */
export function closer(view) {
  const button = el("button", "head-close", "×", { type: "button", "aria-label": "No head" });
  button.title = "back to the colours of the text (Esc)";
  button.addEventListener("click", () => view.setHead(null));
  return button;
}

/** @returns {HTMLElement} */
export const headHint = () =>
  el("p", "dim", "Click a cell in the maps above: the text shows what that head attends to.");

/**
 * @param {HTMLElement} box
 * @param {Sources} sources
 * @param {number} _pos
 * @param {View} view
 */
export function drawSources(box, sources, _pos, view) {
  const { head } = view;
  if (!head) return;
  const total = sources.weights.reduce((a, b) => a + b, 0);
  const held = `${percent(total)} of its attention from this token`;
  const request = el("code", "", `attention:${K}@${headText(head).replace(".", "/")}`);
  const ask = add(el("span", "", "For the tokens it looks at most, add "), request);
  ask.append(" to record=, in a capture or a replay of this trace.");
  const note = el("p", "dim");
  if (sources.of === "heaviest") {
    note.append(`The ${plural(sources.positions.length, "token")} with most weight, ${held}.`);
  } else if (sources.of === "two tokens") {
    note.append(`Only its weights on the first and the previous token are recorded, ${held}. `);
    note.appendChild(ask);
  } else {
    add(note, el("span", "", "What this head looks at from here was not recorded. "), ask);
  }
  const list = el("div", "sources");
  const top = topOf(sources);
  for (let i = 0; i < Math.min(LISTED, sources.positions.length); i++) {
    list.appendChild(sourceRow(sources.positions[i], sources.weights[i], top, view));
  }
  const more = sources.positions.length - LISTED;
  add(box, note, list, more > 0 ? el("p", "dim", `and ${more} more, in the text`) : null);
}

/**
 * @param {number} place
 * @param {number} value
 * @param {number} top
 * @param {View} view
 */
function sourceRow(place, value, top, view) {
  const row = el("button", "source", null, { type: "button", "data-pos": place });
  row.title = "show it in the text";
  const bar = el("i", "source-bar");
  bar.style.width = `${Math.round((100 * value) / top)}%`;
  bar.style.background = colours.line("attention");
  const glyph = el("code", "", visible(view.token(place)));
  const track = add(el("span", "source-track"), bar);
  add(row, el("span", "dim", `#${place}`), glyph, track, el("b", "", weight(value)));
  row.addEventListener("click", () => view.text.point(place, true));
  row.addEventListener("pointerenter", () => view.text.point(place, false));
  row.addEventListener("pointerleave", () => view.text.point(null, false));
  return row;
}
