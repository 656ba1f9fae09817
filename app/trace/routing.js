// The routing of the focused token: its experts on every layer, and one layer in detail.

import { behindButton } from "../shared/behind.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { labelOf } from "../shared/expert_labels.js";
import { termed } from "../shared/glossary.js";
import { number, percent } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { NO_EXPERT } from "./constants.js";

/** @import { Behind } from "../shared/behind.js" */
/** @import { Cell } from "../shared/csv.js" */
/** @import { Boot, RoutingBlock, View } from "./types.js" */

/** @typedef {{expert: number, weight: number, share: number, affinity: number, bias: boolean}} Choice */

/**
 * What the router did for one token at one layer.
 * @typedef {object} Choices
 * @property {number} layer
 * @property {Choice[]} chosen
 * @property {number} total Sum of the weights.
 * @property {number[]} shutOut
 * @property {number} margin
 * @property {number} groupMargin
 * @property {number} entropy
 */

const CLOSE = 0.01; // margin below which the choice hung by a thread
const MANY = 14; // layers that no longer fit without scrolling
const ROW = 24; // height of a layer's row in pixels; the style sheet says the same
const HEAD = 22; // height of the row above them
const NEAR = 6; // rows beyond the edge of the screen that are filled

/**
 * @param {any} body
 * @returns {RoutingBlock}
 */
export const decodeRouting = (body) => ({
  start: body.start,
  tokens: body.tokens,
  layers: body.layers,
  ids: decode(body.ids, "u2"),
  weights: decode(body.weights, "f4"),
  affinities: decode(body.affinities, "f4"),
  biasFlips: decode(body.bias_flips, "u1"),
  margin: decode(body.margin, "f4"),
  groupMargin: decode(body.group_margin, "f4"),
  entropy: decode(body.entropy, "f4"),
  shutOut: decode(body.shut_out, "u2"),
  shutOutFrom: startsOf(decode(body.shut_out_counts, "u2")),
});

/**
 * Where each of some lists that stand one behind the other begins, and the last one ends.
 * @param {Uint16Array} counts
 */
function startsOf(counts) {
  const starts = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i++) starts[i + 1] = starts[i] + counts[i];
  return starts;
}

/**
 * @param {RoutingBlock} block
 * @param {number} s
 * @param {number} pos
 * @param {number} k
 * @returns {Choices}
 */
function choicesAt(block, s, pos, k) {
  const row = s * block.tokens + (pos - block.start);
  let total = 0;
  for (let r = 0; r < k; r++) total += block.weights[row * k + r];
  const chosen = Array.from({ length: k }, (_, r) => ({
    expert: block.ids[row * k + r],
    weight: block.weights[row * k + r],
    share: block.weights[row * k + r] / total,
    affinity: block.affinities[row * k + r],
    bias: Boolean(block.biasFlips[row * k + r]),
  }));
  return {
    layer: block.layers[s],
    chosen,
    total,
    shutOut: [...block.shutOut.subarray(block.shutOutFrom[row], block.shutOutFrom[row + 1])],
    margin: block.margin[row],
    groupMargin: block.groupMargin[row],
    entropy: block.entropy[row],
  };
}

/**
 * @param {HTMLElement} box
 * @param {RoutingBlock} block
 * @param {number} pos
 * @param {View} view
 */
export function drawRouting(box, block, pos, view) {
  const { boot } = view;
  const order = boot.has_weights ? "heaviest first" : "in no order";
  const head = add(
    el("h3", "with-behind", "Experts by layer"),
    el("span", "dim", `${order} · hue: group`),
    behindButton("Experts by layer", () => behindOf(records, pos, boot)),
  );
  add(box, head);
  const records = block.layers.map((_, s) => choicesAt(block, s, pos, boot.k));
  if (!records.length || records[0].chosen[0].expert === NO_EXPERT) {
    const said =
      "The server reported no routing of this token: it never does of the last one, nor of those " +
      "before the offset that it was asked for.";
    box.appendChild(el("p", "dim", said));
    return;
  }
  box.appendChild(layersBox(records, view));
  if (boot.has_weights) box.appendChild(marks());
  const record = records.find((each) => each.layer === view.layer);
  if (record) add(box, ...layerParts(record, view));
}

/**
 * What is behind the choices of a token.
 * @param {Choices[]} records
 * @param {number} pos
 * @param {Boot} boot
 * @returns {Behind}
 */
function behindOf(records, pos, boot) {
  /** @param {string} text */
  const here = (text) => text.replaceAll("$pos", String(pos));
  const { sql, python } = boot.made.token;
  /** @type {(record: Choices) => Cell[][]} */
  const rows = ({ layer, chosen, shutOut, margin }) => [
    ...chosen.map(({ expert, weight, affinity, bias }) => [
      ...[layer, expert, weight, affinity],
      ...[bias ? "by bias" : "by affinity", margin],
    ]),
    ...shutOut.map((expert) => [layer, expert, null, null, "shut out by its group", margin]),
  ];
  return {
    title: `Experts of token #${pos}`,
    name: `trace-${boot.trace_id}-token-${pos}`,
    about:
      "The experts that each layer chose, why, and those that the group limit shut out. Weights " +
      "are made of affinities; the margin is the lead of the last chosen one.",
    columns: ["layer", "expert", "weight", "affinity", "cause", "margin"],
    rows: () => records.flatMap(rows),
    made: { sql: here(sql || ""), python: here(python) },
    draw: null,
    size: [0, 0],
  };
}

/** What the marks in the table of layers mean. */
const marks = () =>
  add(
    el("p", "grid-key"),
    el("i", "key-bias"),
    termed(el("span", "", "by bias"), "bias flip"),
    el("i", "key-shut"),
    termed(el("span", "", "shut out by group"), "group flip"),
    el("i", "key-close"),
    termed(el("span", "", `margin < ${CLOSE}`), "margin"),
  );

// --- all layers -----------------------------------------------------------------------------------

/**
 * The table of layers, scrolled to the one in focus.
 * @param {Choices[]} records
 * @param {View} view
 */
function layersBox(records, view) {
  const scroller = el("div", "routing-scroll");
  const { table, rows, fill } = layersTable(records, view);
  scroller.appendChild(table);
  if (records.length <= MANY) {
    for (const i of rows.keys()) fill(i);
    return scroller;
  }
  // A large model has hundreds of chips; those out of sight are made when they come near. Heights
  // are known, so that nothing waits for the browser to lay the table out.
  const fits = MANY * ROW;
  const show = (/** @type {number} */ top) => {
    const first = Math.max(0, Math.floor(top / ROW) - NEAR);
    for (let i = first; i < Math.min(rows.length, first + MANY + 2 * NEAR); i++) fill(i);
  };
  const at = records.findIndex((each) => each.layer === view.layer);
  const most = records.length * ROW + HEAD - fits;
  const top = Math.min(Math.max(0, at * ROW + HEAD - fits / 2), most);
  show(top);
  requestAnimationFrame(() => {
    scroller.scrollTop = top;
  });
  scroller.addEventListener("scroll", () => show(scroller.scrollTop), { passive: true });
  return scroller;
}

/**
 * @param {Choices[]} records
 * @param {View} view
 * @returns {{table: HTMLElement, rows: HTMLElement[], fill: (i: number) => void}}
 */
function layersTable(records, view) {
  const { boot } = view;
  const largest = Math.max(...records.map((each) => each.chosen[0].share));
  const wide = records.some((each) => each.shutOut.length > 0);
  const header = add(
    el("tr"),
    el("th", "layer-name", "Layer"),
    el("th", "", "Chosen", { colspan: boot.k }),
    wide ? add(el("th", "shut-out"), termed(el("span", "", "Shut out"), "group flip")) : null,
    boot.has_weights ? add(el("th", "num"), termed(el("span", "", "Margin"), "margin")) : null,
  );
  const rows = records.map((each) => layerRow(each, view));
  const filled = new Set();
  const fill = (/** @type {number} */ i) => {
    if (filled.has(i)) return;
    filled.add(i);
    rows[i].append(...layerCells(records[i], largest, wide, view));
  };
  const many = records.length > MANY ? " many" : "";
  const table = el("table", `routing-grid${boot.k > 5 ? " dense" : ""}${many}`);
  return { table: add(table, add(el("thead"), header), add(el("tbody"), ...rows)), rows, fill };
}

/**
 * The row of a layer, without its cells.
 * @param {Choices} record
 * @param {View} view
 */
function layerRow(record, view) {
  const row = el("tr", record.layer === view.layer ? "current" : "", null, {
    "data-layer": record.layer,
  });
  row.addEventListener("click", () => view.setLayer(record.layer));
  const name = el("button", "", `L${record.layer}`, { type: "button" });
  return add(row, add(el("th", "", null, { scope: "row" }), name));
}

/**
 * @param {Choices} record
 * @param {number} largest
 * @param {boolean} wide
 * @param {View} view
 */
function layerCells(record, largest, wide, view) {
  const cells = record.chosen.map((each) => add(el("td"), chip(each, record, largest, view)));
  if (wide) cells.push(shutOutCell(record, view));
  if (view.boot.has_weights) {
    const close = record.margin < CLOSE ? " close" : "";
    cells.push(el("td", `num${close}`, number(record.margin, 3)));
  }
  return cells;
}

/**
 * A chosen expert, which leads to its card. By keyboard the links of the layer in focus do.
 * @param {Choice} choice
 * @param {Choices} record
 * @param {number} largest
 * @param {View} view
 */
function chip(choice, record, largest, { boot, host }) {
  const { expert, share, affinity, bias } = choice;
  const item = host.link(cardOf(record.layer, expert, boot), "chip", String(expert));
  item.tabIndex = -1;
  item.style.backgroundColor = colours.expertFill(expert, boot);
  const said = labelOf(boot.run_id, record.layer, expert);
  item.title = `expert ${expert}${said && ` ${said}`}`;
  if (!boot.has_weights) return item;
  const bar = el("i");
  bar.style.width = `${100 * Math.min(1, share / largest)}%`;
  bar.style.backgroundColor = colours.expertLine(expert, boot);
  item.appendChild(bar);
  if (bias) item.classList.add("by-bias");
  const why = bias ? ", chosen only because of its bias" : "";
  item.title += `: weight share ${percent(share)}, affinity ${number(affinity, 3)}${why}`;
  return item;
}

/**
 * @param {Choices} record
 * @param {View} view
 */
function shutOutCell(record, { boot, host }) {
  const cell = el("td", "shut");
  const most = boot.k > 5 ? 2 : 3;
  for (const expert of record.shutOut.slice(0, most)) {
    const item = host.link(cardOf(record.layer, expert, boot), "ghost", String(expert));
    item.tabIndex = -1;
    item.style.borderColor = colours.expertLine(expert, boot);
    item.title = `expert ${expert} scored among the ${boot.k} best, but its group was rejected`;
    cell.appendChild(item);
  }
  const rest = record.shutOut.length - most;
  if (rest > 0) cell.appendChild(el("span", "dim", `+${rest}`));
  return cell;
}

// --- one layer ------------------------------------------------------------------------------------

/**
 * Title, table and facts of one layer.
 * @param {Choices} record
 * @param {View} view
 */
function layerParts(record, view) {
  const { boot } = view;
  const keys = el("span", "dim", "move with ");
  const title = el("h3", "layer-title", `Layer ${record.layer}`);
  add(title, add(keys, el("kbd", "", "["), el("kbd", "", "]")));
  const body = add(
    el("tbody"),
    ...record.chosen.flatMap((choice) => [
      chosenRow(choice, record, view),
      ...saidRow(choice, record, view),
    ]),
    ...record.shutOut.map((expert) => shutOutRow(expert, record, view)),
  );
  const table = add(el("table", "layer-detail"), add(el("thead"), detailHead(record, boot)), body);
  return [title, table, layerFacts(record, boot)];
}

/**
 * @param {Choices} record
 * @param {Boot} boot
 */
function detailHead(record, boot) {
  /** @type {(label: string, name: string) => HTMLElement} */
  const head = (label, name) => add(el("th"), termed(el("span", "", label), name));
  const row = add(el("tr"), el("th", "", "Expert"), head("Group", "group"));
  if (!boot.has_weights) return row;
  const weight = head("Weight", "weight");
  add(weight, el("i", "unit", `sums to ${Number(record.total.toPrecision(3))}`));
  return add(row, weight, head("Affinity", "affinity"), el("td"));
}

/**
 * @param {Choice} choice
 * @param {Choices} record
 * @param {View} view
 */
function chosenRow(choice, record, view) {
  const { boot } = view;
  const { expert, share } = choice;
  const row = add(el("tr"), expertCell(expert, record, view), groupCell(expert, boot));
  if (!boot.has_weights) return row;
  const weight = meter(share, number(choice.weight, 2), colours.expertLine(expert, boot));
  weight.title = `weight share ${percent(share)}`;
  const title = { title: "with a bias of zero it would not have been chosen" };
  const badge = choice.bias ? el("span", "badge bias", "by bias", title) : null;
  const affinity = meter(choice.affinity, number(choice.affinity, 2), null);
  return add(row, weight, affinity, add(el("td"), badge));
}

/**
 * The label that a person gave an expert, in a row of its own; nothing without one.
 * @param {Choice} choice
 * @param {Choices} record
 * @param {View} view
 */
function saidRow({ expert }, { layer }, { boot }) {
  const said = labelOf(boot.run_id, layer, expert);
  return said ? [add(el("tr"), el("td", "expert-said", said, { colspan: 5, title: said }))] : [];
}

/**
 * @param {number} expert
 * @param {Choices} record
 * @param {View} view
 */
function shutOutRow(expert, record, view) {
  const why = add(
    el("td", "", null, { colspan: 3 }),
    el("span", "badge shut", "shut out by the group limit"),
  );
  return add(el("tr", "out"), expertCell(expert, record, view), groupCell(expert, view.boot), why);
}

/**
 * @param {number} expert
 * @param {Choices} record
 * @param {View} view
 */
function expertCell(expert, record, { boot, host }) {
  const found = host.link(cardOf(record.layer, expert, boot), "expert-link", `E${expert}`);
  const dot = el("i", "swatch");
  dot.style.background = colours.expertLine(expert, boot);
  found.prepend(dot);
  return add(el("td"), found);
}

/**
 * Address of an expert's card.
 * @param {number} layer
 * @param {number} expert
 * @param {Boot} boot
 */
export const cardOf = (layer, expert, boot) =>
  `/expert/${layer}/${expert}?run=${encodeURIComponent(boot.run_id)}`;

/**
 * @param {number} expert
 * @param {Boot} boot
 */
const groupCell = (expert, boot) =>
  el("td", "dim", Math.floor(expert / (boot.experts / boot.groups)));

/**
 * @param {Choices} record
 * @param {Boot} boot
 */
function layerFacts(record, boot) {
  const facts = el("p", "layer-facts");
  if (!boot.has_weights) {
    const said = "This run was imported: why these were chosen is not known. A replay tells it.";
    return add(facts, el("span", "dim", said));
  }
  /** @type {(label: string, value: string) => HTMLElement} */
  const fact = (label, value) =>
    add(el("span", "dim"), termed(el("span", "", label), label), el("b", "", ` ${value}`));
  return add(
    facts,
    fact("margin", number(record.margin, 3)),
    fact("group margin", number(record.groupMargin, 3)),
    fact("router entropy", `${number(record.entropy, 2)} nats`),
  );
}

/**
 * A cell with a bar and a number.
 * @param {number} share
 * @param {string} text
 * @param {string | null} color
 */
function meter(share, text, color) {
  const fill = el("i");
  fill.style.width = `${100 * Math.min(1, share)}%`;
  if (color) fill.style.backgroundColor = color;
  return add(el("td", "meter"), add(el("span", "bar"), fill), el("span", "value", text));
}
