// What a comparison found: maps of A, B and their difference, the experts that differ most, and how
// far each layer moves.

import { setParams } from "../shared/address.js";
import { behindButton } from "../shared/behind.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { labelOf, readLabels } from "../shared/expert_labels.js";
import { termed } from "../shared/glossary.js";
import { gridMap, legend } from "../shared/grid_map.js";
import { link } from "../shared/host.js";
import { barsChart, ranked } from "../shared/ranked.js";
import { number, percent, plural } from "../shared/text.js";
import { shiftChart } from "./shift.js";
import { groupAt, state } from "./state.js";

/** @import { Behind } from "../shared/behind.js" */
/** @import { Place } from "../shared/grid_map.js" */
/** @import { Column } from "../shared/ranked.js" */
/** @import { Cell, Group } from "./types.js" */
/** @typedef {import("./page.js").View} View */

/**
 * What changes the address, and what is shown with it.
 * @typedef {object} Acts
 * @property {() => void} toggleNothing
 * @property {() => void} toggleEqual
 * @property {(rate: string) => void} setRate
 * @property {(group: number) => void} setGroup
 */

const FOUND = 0.05; // rate up to which cells are marked
const LISTED = 12;
const [SMALL, LARGE] = [0.15, 0.29]; // heights of the maps, of the window's, at most
const THICK = 44; // height of a row, at most

/** @param {number} value */
const signed = (value) => (value > 0 ? "+" : "") + number(100 * value, 1);

/**
 * End of a scale: a quantile of the sizes, so that a few outliers do not make all else pale.
 * @param {Float32Array} values
 * @param {Float32Array} more
 * @param {number} quantile
 */
function edgeOf(values, more, quantile) {
  const sizes = Float32Array.of(...values, ...more)
    .map(Math.abs)
    .filter(Number.isFinite)
    .sort();
  return Math.max(0.005, sizes[Math.floor(quantile * (sizes.length - 1))] || 0);
}

/**
 * @param {View} v
 * @param {Cell | null} focused
 * @param {Acts} acts
 */
export function results(v, focused, acts) {
  const node = el("div", "results");
  let focus = focused;
  const tip = el("div", "tip", null, { hidden: "" });
  const status = el("p", "compare-said", null, { role: "status" });
  const panel = el("aside", "compare-panel", null, { "aria-label": "Experts that differ most" });
  const maps = {
    a: map("Share of tokens that chose each expert, in A", SMALL),
    b: map("Share of tokens that chose each expert, in B", SMALL),
    difference: map("Difference of the shares, A minus B", LARGE),
  };
  const shift = shiftChart();
  // The results are whole without the labels; they come in when they are there.
  readLabels(runOf()).then(
    (labels) => labels.size && node.isConnected && draw(),
    () => {},
  );
  const heads = {
    a: el("h2", "map-head"),
    b: el("h2", "map-head"),
    difference: el("h2", "map-head"),
  };
  const shiftHead = el("h2", "map-head");
  const bar = el("div", "results-bar");
  add(
    node,
    add(
      el("div", "compare-main"),
      bar,
      status,
      add(
        el("div", "map-pair"),
        add(el("section", "map-box"), heads.a, maps.a.node),
        add(el("section", "map-box"), heads.b, maps.b.node),
      ),
      add(el("section", "map-box"), heads.difference, maps.difference.node),
      add(el("section", "map-box"), shiftHead, shift.node),
    ),
    panel,
    tip,
  );

  const group = () => /** @type {Group} */ (v.contrast?.groups[groupAt(v.contrast)]);
  /** The group whose difference is shown: of the store, or of choices in random order. */
  const compared = () => (state().nothing && v.nothing?.groups[groupAt(v.contrast)]) || group();
  /** @type {(place: Place) => Cell} */
  const cellAt = ({ row, column }) => ({ layer: group().layers[row], expert: column });
  /** @param {Cell} cell */
  const placeOf = (cell) => group().layers.indexOf(cell.layer) * group().experts + cell.expert;

  /** @type {(name: string, most: number) => ReturnType<typeof gridMap>} */
  function map(name, most) {
    return gridMap(
      name,
      ({ rows }) => {
        const high = Math.round(most * window.innerHeight) / Math.max(1, rows.length);
        return Math.max(1, Math.min(THICK, Math.floor(high)));
      },
      (place) => choose(cellAt(place)),
      (place, event) => point(place && cellAt(place), event),
    );
  }

  // --- what is shown --------------------------------------------------------------------------

  function draw() {
    const { layers, experts, share_a, share_b } = group();
    const shown = compared();
    const { rate } = state();
    const top = Math.min(1, edgeOf(share_a, share_b, 0.99));
    const edge = edgeOf(group().difference, new Float32Array(), 0.995);
    const [heat, two] = [colours.heat(), colours.diverging()];
    /** @param {Float32Array} values */
    const share = (values) => (/** @type {number} */ i) =>
      Number.isFinite(values[i])
        ? heat[Math.round((heat.length - 1) * Math.min(1, values[i] / top))]
        : null;
    /** @param {number} i */
    const hidden = (i) => rate !== "" && !(shown.q[i] <= Number(rate));
    /** @param {number} i */
    const difference = (i) => {
      const value = shown.difference[i];
      if (!Number.isFinite(value)) return null;
      const at = hidden(i) ? 0.5 : Math.max(0, Math.min(1, 0.5 + value / (2 * edge)));
      return two[Math.round((two.length - 1) * at)];
    };
    const row = focus ? layers.indexOf(focus.layer) : -1;
    const common = {
      rows: layers.map((layer) => `L${layer}`),
      columns: Array.from({ length: experts }, (_, e) => `${e}`),
      focus: focus && row >= 0 ? { row, column: focus.expert } : null,
    };
    maps.a.show({ ...common, fill: share(share_a) });
    maps.b.show({ ...common, fill: share(share_b) });
    maps.difference.show({
      ...common,
      fill: difference,
      marked: (i) => shown.q[i] <= FOUND && !hidden(i),
    });
    drawHeads(top, edge);
    drawBar();
    tell(summary());
    drawPanel();
    drawShift();
  }

  /** @type {(top: number, edge: number) => void} */
  function drawHeads(top, edge) {
    const { tokens_a, tokens_b } = group();
    for (const [side, tokens] of /** @type {["a" | "b", number][]} */ ([
      ["a", tokens_a],
      ["b", tokens_b],
    ])) {
      const name = termed(el("span", "", "Share"), "share");
      const count = el("span", "dim", plural(tokens, "token"));
      const letter = el("span", `side side-${side}`, side.toUpperCase());
      heads[side].replaceChildren(letter, name, count, el("span", "spacer"));
      add(heads[side], legend("0%", `≥ ${percent(top)}`, colours.heat()));
    }
    const what = state().nothing && v.nothing ? "Difference in random order" : "A − B";
    const name = termed(el("span", "", what), state().nothing ? "null" : "contrast");
    const percentPoints = `${number(100 * edge, 1)} points`;
    heads.difference.replaceChildren(
      name,
      el("span", "dim", "dots: q ≤ 0.05"),
      el("span", "spacer"),
    );
    add(
      heads.difference,
      legend(`≤ −${percentPoints}`, `≥ +${percentPoints}`, colours.diverging()),
      behindButton("Difference", behind),
    );
  }

  function drawBar() {
    const { equal, rate, nothing } = state();
    const focusedNow = document.activeElement;
    const had =
      focusedNow instanceof HTMLElement && bar.contains(focusedNow) && focusedNow.dataset.name;
    /** @type {(name: string, label: string, on: boolean, term: string, act: () => void) => HTMLElement} */
    const button = (name, label, on, term, act) => {
      const found = termed(el("button", "", label, { type: "button" }), term);
      found.dataset.name = name;
      found.setAttribute("aria-pressed", String(on));
      found.addEventListener("click", act);
      return found;
    };
    /** @type {(label: string, ...parts: HTMLElement[]) => HTMLElement} */
    const segments = (label, ...parts) =>
      add(el("div", "segments", null, { role: "group", "aria-label": label }), ...parts);
    const rates = [
      ["", "All cells"],
      ["0.05", "q ≤ 0.05"],
      ["0.1", "q ≤ 0.1"],
    ];
    bar.replaceChildren(
      segments(
        "Tokens that are compared",
        button("all", "All tokens", !equal, "contrast", () => equal && acts.toggleEqual()),
        button(
          "equal",
          "Equal tokens only",
          equal,
          "token-identity control",
          () => equal || acts.toggleEqual(),
        ),
      ),
      segments(
        "False discovery rate",
        ...rates.map(([value, label]) =>
          button(`q${value}`, label, rate === value, "false discovery rate", () =>
            acts.setRate(value),
          ),
        ),
      ),
      segments("Null", button("null", "In random order", nothing, "null", acts.toggleNothing)),
    );
    const groups = v.contrast?.groups || [];
    if (groups.length > 1) {
      const select = el("select", "group-choice", null, { "aria-label": "Phase" });
      groups.forEach((each, i) => {
        select.appendChild(el("option", "", each.name, { value: i }));
      });
      select.value = String(groupAt(v.contrast));
      select.addEventListener("change", () => acts.setGroup(Number(select.value)));
      bar.appendChild(select);
    }
    if (had) bar.querySelector(/** @type {"button"} */ (`[data-name="${had}"]`))?.focus();
  }

  /** What the comparison rests on, and what it found. */
  function summary() {
    const { contrast } = v;
    if (!contrast) return "";
    const { q } = compared();
    const survive = q.filter((value) => value <= FOUND).length;
    const how = contrast.paired ? "each compared with itself" : "whole traces compared";
    const out = contrast.left_out ? `, ${contrast.left_out} left out` : "";
    const least = contrast.smallest_p < 0.0001 ? "< 0.0001" : number(contrast.smallest_p, 4);
    const of = state().nothing && v.nothing ? "Of choices in random order" : "Of the store";
    const few =
      !survive && contrast.smallest_p * q.length > FOUND
        ? " So few traces cannot tell any of so many experts from chance: capture more."
        : "";
    return (
      `${of}: ${survive.toLocaleString("en")} of ${plural(q.length, "expert")} at q ≤ 0.05 · ` +
      `${plural(contrast.traces, "trace")}, ${how}${out} · least p possible ${least}.${few}`
    );
  }

  /** @param {string} text */
  function tell(text) {
    status.textContent = text;
  }

  // --- the panel ------------------------------------------------------------------------------

  /** Places of the cells with the smallest p, of these the largest first. */
  function strongest() {
    const { p, difference } = compared();
    return Array.from(p, (_, i) => i)
      .filter((i) => Number.isFinite(p[i]))
      .sort((i, j) => p[i] - p[j] || Math.abs(difference[j]) - Math.abs(difference[i]))
      .slice(0, LISTED);
  }

  /** @param {number} i */
  const cellOf = (i) => ({
    layer: group().layers[Math.floor(i / group().experts)],
    expert: i % group().experts,
  });

  /** The run that A names; "" if it names none. */
  function runOf() {
    const [, run] = v.a.value.match(/run_id = '((?:[^']|'')*)'/) || [];
    return run ? run.replace(/''/g, "'") : "";
  }

  /** @param {Cell} cell */
  function cardOf(cell) {
    const run = runOf();
    const query = new URLSearchParams(run ? { run } : {});
    return `/expert/${cell.layer}/${cell.expert}${query.size ? `?${query}` : ""}`;
  }

  function drawPanel() {
    const shown = compared();
    const places = strongest();
    const edge = Math.max(
      ...places.flatMap((i) =>
        [shown.difference[i], shown.low[i] || 0, shown.high[i] || 0].map(Math.abs),
      ),
    );
    const two = colours.diverging();
    /** @param {number} value */
    const at = (value) => 0.5 + (0.5 * value) / (edge || 1);
    /** @param {number} i */
    const barOf = (i) => ({
      from: 0.5,
      to: at(shown.difference[i]),
      colour: two[shown.difference[i] < 0 ? 8 : two.length - 9],
      range: Number.isFinite(shown.low[i])
        ? /** @type {[number, number]} */ ([at(shown.low[i]), at(shown.high[i])])
        : null,
    });
    /** @type {Column<number>[]} */
    const columns = [
      {
        label: "Expert",
        show: (i) => {
          const cell = cellOf(i);
          const found = link(cardOf(cell), "expert-link", `L${cell.layer} E${cell.expert}`);
          found.title = labelOf(runOf(), cell.layer, cell.expert);
          return found;
        },
      },
      {
        label: "A − B, points",
        term: "contrast",
        bar: barOf,
        show: (i) => signed(shown.difference[i]),
      },
      {
        label: "q",
        term: "false discovery rate",
        number: true,
        show: (i) => number(shown.q[i], 3),
      },
    ];
    const table = ranked("Experts with the smallest p", columns, places);
    const head = add(el("h2", "map-head"), el("span", "", "Smallest p"), el("span", "spacer"));
    const bars = places.map((i) => ({
      label: `L${cellOf(i).layer} E${cellOf(i).expert}`,
      text: signed(shown.difference[i]),
      bar: barOf(i),
    }));
    add(
      head,
      behindButton("Smallest p", () => listBehind(places, bars)),
    );
    panel.replaceChildren(
      focusCard(),
      head,
      table,
      el("p", "dim", shown.low.length ? "Line: 95% interval over traces." : ""),
    );
  }

  /** The expert in focus. */
  function focusCard() {
    if (!focus) {
      const text = "Click a cell, or use the arrow keys, to see its numbers.";
      return add(el("div", "focus-card"), el("h2", "", "Choose an expert"), el("p", "dim", text));
    }
    const i = placeOf(focus);
    const shown = compared();
    const facts = el("div", "facts");
    for (const [name, value] of [
      ["A", percent(group().share_a[i])],
      ["B", percent(group().share_b[i])],
      ["A − B", signed(shown.difference[i])],
      ["q", number(shown.q[i], 3)],
    ]) {
      add(facts, add(el("div", "fact"), el("span", "dim", name), el("b", "", value)));
    }
    const title = link(
      cardOf(focus),
      "expert-link",
      `Layer ${focus.layer}, expert ${focus.expert}`,
    );
    const head = add(el("h2", ""), title);
    const said = labelOf(runOf(), focus.layer, focus.expert);
    return add(el("div", "focus-card"), head, said ? el("p", "said-by", said) : null, facts);
  }

  function drawShift() {
    const found = v.shift?.groups[groupAt(v.contrast)];
    const name = termed(el("span", "", "How far each layer moves"), "divergence");
    shiftHead.replaceChildren(name, el("span", "spacer"));
    if (v.shiftError) shiftHead.appendChild(el("span", "error", v.shiftError));
    else if (!found) shiftHead.appendChild(el("span", "dim", "reading…"));
    if (!found) return;
    shiftHead.appendChild(behindButton("How far each layer moves", shiftBehind));
    shift.show(found.rows);
  }

  // --- behind ---------------------------------------------------------------------------------

  /** @returns {Behind | null} */
  function behind() {
    const { contrast } = v;
    const made = state().nothing && v.nothing ? v.nothing.made : contrast?.made;
    if (!contrast || !made) return null;
    const shown = compared();
    return {
      title: "Difference of two selections",
      name: "compare",
      about:
        "Share of tokens that chose each expert, A minus B, compared within each trace if it has " +
        "both; its 95% interval over traces; p by exchanging whole traces; q by Benjamini and Hochberg.",
      columns: ["layer", "expert", "share A", "share B", "difference", "low", "high", "p", "q"],
      rows: () =>
        Array.from(shown.difference, (value, i) => [
          cellOf(i).layer,
          cellOf(i).expert,
          shown.share_a[i],
          shown.share_b[i],
          value,
          shown.low[i] ?? null,
          shown.high[i] ?? null,
          shown.p[i],
          shown.q[i],
        ]),
      made,
      draw: (c, w) => maps.difference.draw(c, w),
      size: [1100, maps.difference.height(1100)],
    };
  }

  /**
   * @param {number[]} places
   * @param {Parameters<typeof barsChart>[0]} bars
   * @returns {Behind | null}
   */
  function listBehind(places, bars) {
    const all = behind();
    if (!all) return null;
    const [chart, size] = barsChart(bars);
    const rows = all.rows();
    return {
      ...all,
      title: "Experts with the smallest p",
      name: "compare-smallest-p",
      rows: () => places.map((i) => rows[i]),
      draw: chart,
      size,
    };
  }

  /** @returns {Behind | null} */
  function shiftBehind() {
    const found = v.shift;
    if (!found) return null;
    return {
      title: "How far each layer moves",
      name: "compare-shift",
      about:
        "Jensen–Shannon divergence in nats between the experts of A and B, with its 95% interval " +
        "over traces; null: its mean if traces change places at random.",
      columns: ["layer", "divergence", "low", "high", "null", "p"],
      rows: () =>
        found.groups[groupAt(v.contrast)].rows.map((r) => [
          r.layer,
          r.divergence,
          r.low,
          r.high,
          r.null,
          r.p,
        ]),
      made: found.made,
      draw: shift.draw,
      size: [1100, 220],
    };
  }

  // --- pointer and keys -----------------------------------------------------------------------

  /** @param {Cell} cell */
  function choose(cell) {
    focus = cell;
    setParams({ L: cell.layer, E: cell.expert });
    draw();
  }

  /**
   * @param {Cell | null} cell
   * @param {PointerEvent} event
   */
  function point(cell, event) {
    tip.hidden = !cell;
    if (!cell) return;
    const i = placeOf(cell);
    const shown = compared();
    /** @type {[string, string][]} */
    const rows = [
      ["", `L${cell.layer} · E${cell.expert}`],
      ["A", percent(group().share_a[i])],
      ["B", percent(group().share_b[i])],
      ["A − B", `${signed(shown.difference[i])} points`],
      ["q", number(shown.q[i], 3)],
    ];
    const said = labelOf(runOf(), cell.layer, cell.expert);
    if (said) rows.push(["", said]);
    tip.replaceChildren(
      ...rows.map(([name, value]) =>
        add(el("div", "tip-row"), name ? el("span", "dim", name) : null, el("b", "", value)),
      ),
    );
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 12);
    const fits = event.clientY + 14 + tip.offsetHeight < window.innerHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${fits ? event.clientY + 14 : event.clientY - tip.offsetHeight - 10}px`;
  }

  /** @type {(layers: number, experts: number) => void} */
  function step(byLayer, byExpert) {
    const { layers, experts } = group();
    if (!focus) return choose({ layer: layers[0], expert: 0 });
    const n = Math.max(0, Math.min(layers.length - 1, layers.indexOf(focus.layer) + byLayer));
    const expert = Math.max(0, Math.min(experts - 1, focus.expert + byExpert));
    choose({ layer: layers[n], expert });
  }

  return { node, draw, tell, step, card: () => focus && cardOf(focus) };
}
