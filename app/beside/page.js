// The page of two traces: how their steps are aligned, the step in focus, keys and the address.

import { stripOf } from "../annotations/strip.js";
import { intParam, setParams } from "../shared/address.js";
import { behindButton } from "../shared/behind.js";
import { heat } from "../shared/colours.js";
import { clientside, quietly } from "../shared/dash.js";
import { add, el, pageKeys } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { legend } from "../shared/grid_map.js";
import { fetchJson, go, server } from "../shared/host.js";
import { roleKeys, roleName } from "../shared/roles.js";
import { messageOf, number, percent } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { alignmentIn, goesBack, isPair, rowAt, rowOf, stepOf } from "./alignment.js";
import { addressOf, alignedRows, expertsOf, rowsHead, waysOn } from "./list.js";
import { overview } from "./overview.js";

/** @import { Behind } from "../shared/behind.js" */
/** @import { Strip } from "../annotations/types.js" */
/** @import { Alignment, Boot, Chance, Listed, Row } from "./types.js" */

/**
 * @typedef {object} View
 * @property {Boot} boot
 * @property {HTMLElement} root
 * @property {Alignment} found
 * @property {ReturnType<typeof overview>} map
 * @property {ReturnType<typeof alignedRows>} list
 * @property {HTMLElement} ways
 * @property {Strip[]} said What people said of each trace.
 * @property {number} row In focus; -1 for none.
 */

/** @type {View | null} */
let view = null;

const here = () => (view && document.contains(view.root) ? view : null);

// --- focus ----------------------------------------------------------------------------------------

/**
 * @param {View} v
 * @param {number} row
 * @param {boolean} scroll
 */
function setRow(v, row, scroll) {
  v.row = row;
  const known = row >= 0 && row < v.found.rows.length;
  setParams({
    first: known ? stepOf(v.found, row, 0) : null,
    second: known ? stepOf(v.found, row, 1) : null,
  });
  v.map.mark(row);
  v.list.mark(row, scroll);
  v.ways.replaceChildren(waysOn(v.found, row, runOf(v)));
  if (!known) v.ways.appendChild(el("span", "dim", "Choose a step to see where it leads."));
}

/** @param {View} v */
const runOf = ({ boot }) => boot.traces.find((each) => each.trace_id === boot.first)?.run_id || "";

/**
 * To the next or previous row of some kind; where there is none, stay.
 * @param {View} v
 * @param {1 | -1} by
 * @param {(row: Row) => boolean} wanted
 */
function step(v, by, wanted) {
  const { rows } = v.found;
  const start = v.row < 0 && by < 0 ? rows.length : v.row;
  for (let at = start + by; at >= 0 && at < rows.length; at += by) {
    if (wanted(rows[at])) return setRow(v, at, true);
  }
}

/**
 * @param {View} v
 * @param {0 | 1} at
 */
function openStep(v, at) {
  const place = v.found.rows[v.row]?.places[at] ?? -1;
  if (place >= 0) go(addressOf(v.found.sides[at], place));
}

/**
 * Another pair of traces.
 * @param {number} first
 * @param {number} second
 */
const openPair = (first, second) => go(`/beside/${first}/${second}`);

/**
 * The trace before or after that on the right; never the left one.
 * @param {View} v
 * @param {1 | -1} by
 */
function stepTrace({ boot }, by) {
  const others = boot.traces.map((each) => each.trace_id).filter((id) => id !== boot.first);
  const at = others.indexOf(boot.second);
  const next = others[(at + by + others.length) % others.length];
  if (next !== undefined && next !== boot.second) openPair(boot.first, next);
}

/** @type {Record<string, (v: View) => void>} */
const KEYS = {
  j: (v) => step(v, 1, () => true),
  k: (v) => step(v, -1, () => true),
  ArrowDown: (v) => step(v, 1, () => true),
  ArrowUp: (v) => step(v, -1, () => true),
  u: (v) => step(v, 1, (row) => !isPair(row)),
  U: (v) => step(v, -1, (row) => !isPair(row)),
  d: (v) => step(v, 1, (row) => goesBack(v.found, row)),
  D: (v) => step(v, -1, (row) => goesBack(v.found, row)),
  1: (v) => openStep(v, 0),
  2: (v) => openStep(v, 1),
  e: (v) => {
    const address = expertsOf(v.found, v.row, runOf(v));
    if (address) go(address);
  },
  n: (v) => stepTrace(v, 1),
  p: (v) => stepTrace(v, -1),
  x: (v) => openPair(v.boot.second, v.boot.first),
  a: (v) => v.said[0].annotate(),
  A: (v) => v.said[1].annotate(),
  Escape: (v) => setRow(v, -1, false),
};
pageKeys(here, KEYS);

// --- what is shown --------------------------------------------------------------------------------

/** @param {Listed} trace */
const named = ({ trace_id, sample, correct, answer, run_id, mode, interventions }) => {
  const verdict = correct === null ? "" : correct ? "correct" : "wrong";
  const said = answer === null ? "" : answer.slice(0, 24);
  const acts = interventions && `under ${interventions}`;
  const parts = [`sample ${sample}`, verdict, said, mode === "replay" ? mode : "", acts];
  return `Trace ${trace_id}: ${[...parts, `run ${run_id}`].filter(Boolean).join(" · ")}`;
};

/**
 * The choice of the trace on a side.
 * @param {Boot} boot
 * @param {0 | 1} side
 */
function chooser(boot, side) {
  const [own, other] = side ? [boot.second, boot.first] : [boot.first, boot.second];
  const node = el("select", "beside-choice", null, {
    "aria-label": side ? "Trace on the right" : "Trace on the left",
  });
  for (const trace of boot.traces) {
    if (trace.trace_id === other) continue;
    node.appendChild(el("option", "", named(trace), { value: trace.trace_id }));
  }
  node.value = String(own);
  node.addEventListener("change", () => {
    const chosen = Number(node.value);
    openPair(side ? boot.first : chosen, side ? chosen : boot.second);
  });
  return node;
}

/** @param {View} v */
function toolbar(v) {
  const swap = el("button", "button", "⇄", { type: "button", title: "Change sides (x)" });
  swap.setAttribute("aria-label", "Change sides");
  swap.addEventListener("click", () => openPair(v.boot.second, v.boot.first));
  const bar = el("div", "toolbar beside-bar");
  return add(bar, chooser(v.boot, 0), swap, chooser(v.boot, 1));
}

/** @param {View} v */
function summary(v) {
  const { found } = v;
  const score = el("span", "beside-chance", "");
  const said = el("p", "beside-said");
  const some = found.layers ? ` · layers ${found.layers.join(", ")}` : "";
  add(
    said,
    termed(el("b", "", "Alignment"), "alignment"),
    behindButton("Alignment", () => behind(v)),
    el("span", "", `${percent(found.paired)} of the steps have a partner${some}`),
    score,
    el("span", "spacer"),
    termed(el("span", "", "routing distance"), "routing distance"),
    legend("1", "0", heat()),
  );
  fetchJson(`/data/beside/${v.boot.first}/${v.boot.second}/chance`).then(
    (/** @type {Chance} */ chance) => {
      score.textContent = chanceIn(found, chance);
    },
    (error) => {
      score.textContent = messageOf(error);
    },
  );
  return said;
}

/**
 * Whether the alignment is told from chance.
 * @param {Alignment} found
 * @param {Chance} chance
 */
function chanceIn(found, chance) {
  const score = `score ${number(found.score, 2)}`;
  if (chance.null === undefined || chance.p === undefined) return `${score}; ${chance.lacks}`;
  const p = `p = ${number(chance.p, chance.p < 0.1 ? 3 : 2)} of ${chance.draws} orders`;
  return `${score}, ${number(chance.null, 2)} in random order, ${p}`;
}

/**
 * @param {View} v
 * @returns {Behind}
 */
function behind({ found, map, boot }) {
  /** @type {(row: Row, side: 0 | 1) => [number | null, string | null, string | null]} */
  const cells = ({ places }, side) => {
    const { step: steps, role, text } = found.sides[side];
    const place = places[side];
    return place < 0 ? [null, null, null] : [steps[place], roleName(role[place]), text[place]];
  };
  return {
    title: `Traces ${boot.first} and ${boot.second}, step beside step`,
    name: `beside-${boot.first}-${boot.second}`,
    about:
      "Partners in one row, steps without a partner alone. Distance of their routing, from 0 to 1; " +
      `similarity with ${found.roleWeight} of it the role; what the row adds to the score.`,
    columns: [
      ...["step", "role", "text"].map((name) => `${name} of ${boot.first}`),
      ...["step", "role", "text"].map((name) => `${name} of ${boot.second}`),
      ...["distance", "similarity", "score"],
    ],
    rows: () =>
      found.rows.map((row) => [
        ...cells(row, 0),
        ...cells(row, 1),
        ...[row.distance, row.similarity, row.score].map((x) => (Number.isFinite(x) ? x : null)),
      ]),
    made: found.made,
    draw: map.draw,
    size: [1200, map.height()],
  };
}

// --- mounting -------------------------------------------------------------------------------------

/**
 * @param {HTMLElement} root
 * @param {unknown} error
 */
function refuse(root, error) {
  const title = el("h2", "", "These traces cannot stand side by side");
  const state = el("div", "state", null, { role: "alert" });
  root.replaceChildren(add(state, title, el("p", "", messageOf(error))));
}

/**
 * What people said of the trace on a side, and of its step in focus.
 * @param {View} v
 * @param {0 | 1} side
 */
function saidOf(v, side) {
  const { trace_id, first } = v.found.sides[side];
  return stripOf({ trace_id }, server, {
    key: side ? "A" : "a",
    pos: () => first[v.found.rows[v.row]?.places[side] ?? -1] ?? null,
    show: (pos) => setRow(v, rowAt(v.found, side, pos), true),
    changed: () => v.list.tell(side, v.said[side]),
  });
}

/** @param {View} v */
function draw(v) {
  const top = v.list.node.scrollTop;
  v.list = alignedRows(v.found, (row) => setRow(v, row, false));
  const roles = v.found.sides.flatMap((side) => [...side.role]);
  const body = add(el("div", "beside-top"), summary(v), v.map.node, roleKeys(roles), v.ways);
  const said = add(el("div", "beside-notes"), ...v.said.map(({ node }) => node));
  v.root.replaceChildren(toolbar(v), said, body, rowsHead(v.found), v.list.node);
  v.list.tell(0, v.said[0]);
  v.list.tell(1, v.said[1]);
  v.map.show(v.found);
  v.map.mark(v.row);
  v.list.mark(v.row, false);
  v.list.node.scrollTop = top;
}

/** @param {Boot | null} boot */
async function mount(boot) {
  const root = document.getElementById("beside-app");
  if (!root || !boot) return;
  delete root.dataset.ready;
  root.replaceChildren(el("div", "loading", "Aligning the steps…"));
  /** @type {Alignment} */
  let found;
  try {
    const body = await fetchJson(`/data/beside/${boot.first}/${boot.second}/alignment`);
    found = alignmentIn(body);
  } catch (error) {
    return refuse(root, error);
  }
  if (!document.contains(root)) return;
  /** @type {View} */
  const v = {
    boot,
    root,
    found,
    map: overview((row) => setRow(v, row, true)),
    list: alignedRows(found, () => {}),
    said: [],
    ways: el("div", "beside-ways"),
    row: -1,
  };
  v.said = [saidOf(v, 0), saidOf(v, 1)];
  view = v;
  draw(v);
  const asked = rowOf(found, 0, intParam("first"));
  setRow(v, asked >= 0 ? asked : rowOf(found, 1, intParam("second")), true);
  root.dataset.ready = "true";
}

onTheme(() => {
  const v = here();
  if (v) draw(v);
});

clientside("beside", { mount: quietly(mount) });
