// The page that compares two selections: what is asked, what is shown, keys and the address.

import { intParam, param, setParams } from "../shared/address.js";
import { clientside, quietly } from "../shared/dash.js";
import { add, el, pageKeys } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { fetchJson, go } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { decode } from "../shared/typed_arrays.js";
import { results } from "./results.js";
import { groupAt, RATES, state } from "./state.js";

/** @import { Boot, Cell, Contrast, Preset, Shift } from "./types.js" */

/**
 * What is asked, and what came of it.
 * @typedef {object} View
 * @property {Boot} boot
 * @property {HTMLElement} root
 * @property {HTMLElement} body
 * @property {HTMLInputElement} a
 * @property {HTMLInputElement} b
 * @property {Contrast | null} contrast
 * @property {Contrast | null} nothing The same of choices in random order.
 * @property {Shift | null} shift
 * @property {string} shiftError
 * @property {ReturnType<typeof results> | null} shown
 */

/** @type {View | null} */
let view = null;
let turn = 0; // of the questions: an answer to an older one comes too late

const here = () => (view && document.contains(view.root) ? view : null);

/**
 * @param {any} body
 * @returns {Contrast}
 */
function decoded(body) {
  const names = ["share_a", "share_b", "difference", "low", "high", "p", "q"];
  /** @param {any} group */
  const arrays = (group) =>
    Object.fromEntries(
      names.map((name) => [name, group[name] ? decode(group[name], "f4") : new Float32Array()]),
    );
  return {
    ...body,
    groups: body.groups.map((/** @type {any} */ group) => ({ ...group, ...arrays(group) })),
  };
}

/**
 * @param {View} v
 * @param {string} name
 */
function addressOf(v, name) {
  const query = new URLSearchParams({ a: v.a.value.trim(), b: v.b.value.trim() });
  if (state().equal && name !== "shift") query.set("within", "token");
  return `/data/compare/${name}?${query}`;
}

/** @param {View} v */
async function read(v) {
  turn += 1;
  const mine = turn;
  const late = () => view !== v || turn !== mine;
  v.contrast = v.nothing = v.shift = v.shown = null;
  v.shiftError = "";
  delete v.root.dataset.ready;
  if (!v.a.value.trim() || !v.b.value.trim()) return invite(v);
  const waits = "Comparing… each trace is counted once, then exchanged at random.";
  v.body.replaceChildren(el("div", "loading", waits));
  try {
    const found = decoded(await fetchJson(addressOf(v, "contrast")));
    if (late()) return;
    v.contrast = found;
  } catch (error) {
    if (!late()) refuse(v, messageOf(error));
    return;
  }
  build(v);
  if (state().nothing) await readNothing(v, mine);
  try {
    const shift = await fetchJson(addressOf(v, "shift"));
    if (late()) return;
    v.shift = shift;
  } catch (error) {
    v.shiftError = messageOf(error);
  }
  if (late()) return;
  redraw(v);
  v.root.dataset.ready = "true";
}

/** @param {View} v */
const redraw = (v) => v.shown?.draw();

/**
 * @param {View} v
 * @param {number} mine
 */
async function readNothing(v, mine) {
  if (v.nothing) return;
  try {
    const found = decoded(await fetchJson(addressOf(v, "null")));
    if (view === v && turn === mine) v.nothing = found;
  } catch (error) {
    if (view === v && turn === mine) {
      setParams({ null: null });
      v.shown?.tell(messageOf(error));
    }
  }
}

/** @param {View} v */
function invite(v) {
  const title = el("h2", "", "Choose what to compare");
  const text =
    "A selection is a predicate in SQL over the columns of token_context, such as " +
    "phase = 'think' and entropy > 1. Take one of the comparisons above, or write your own.";
  v.body.replaceChildren(add(el("div", "state"), title, el("p", "", text)));
  v.root.dataset.ready = "true";
}

/**
 * @param {View} v
 * @param {string} why
 */
function refuse(v, why) {
  const title = el("h2", "", "These cannot be compared");
  const box = add(el("div", "state", null, { role: "alert" }), title, el("p", "", why));
  v.body.replaceChildren(box);
  v.root.dataset.ready = "true";
}

/** @param {View} v */
function build(v) {
  if (!v.contrast) return;
  const layers = v.contrast.groups[groupAt(v.contrast)].layers;
  /** @type {Cell | null} */
  const focus = { layer: intParam("L") ?? layers[0], expert: intParam("E") ?? -1 };
  const there = focus.expert >= 0 && layers.includes(focus.layer);
  const shown = results(v, there ? focus : null, {
    toggleNothing: () => toggleNothing(v),
    toggleEqual: () => toggleEqual(v),
    setRate: (rate) => setRate(v, rate),
    setGroup: (group) => setGroup(v, group),
  });
  v.shown = shown;
  v.body.replaceChildren(shown.node);
  shown.draw();
}

// --- changing what is shown -----------------------------------------------------------------------

/** @param {View} v */
async function toggleNothing(v) {
  const on = !state().nothing;
  setParams({ null: on ? "1" : null });
  if (on) {
    v.shown?.tell("Counting choices in random order…");
    await readNothing(v, turn);
  }
  v.shown?.draw();
}

/** @param {View} v */
function toggleEqual(v) {
  setParams({ within: state().equal ? null : "token" });
  read(v);
}

/**
 * @param {View} v
 * @param {string} rate
 */
function setRate(v, rate) {
  setParams({ fdr: rate || null });
  v.shown?.draw();
}

/**
 * @param {View} v
 * @param {number} group
 */
function setGroup(v, group) {
  setParams({ group: group || null });
  build(v);
}

/**
 * @param {View} v
 * @param {string} a
 * @param {string} b
 */
function compare(v, a, b) {
  v.a.value = a;
  v.b.value = b;
  setParams({ a: a || null, b: b || null, group: null });
  mark(v);
  read(v);
}

/**
 * Show which comparison of the list it is.
 * @param {View} v
 */
function mark(v) {
  for (const button of v.root.querySelectorAll("button[data-preset]")) {
    const preset = v.boot.presets[Number(button instanceof HTMLElement && button.dataset.preset)];
    const same = preset.a === v.a.value.trim() && preset.b === v.b.value.trim();
    button.setAttribute("aria-pressed", String(same && !preset.lacks));
  }
}

// --- what is asked --------------------------------------------------------------------------------

/**
 * @param {View} v
 * @returns {HTMLElement}
 */
function form(v) {
  const node = el("form", "compare-form", null, { role: "search", "aria-label": "Selections" });
  /** @type {(letter: string, box: HTMLInputElement) => HTMLElement} */
  const field = (letter, box) => {
    const name = el("span", `side side-${letter.toLowerCase()}`, letter);
    return add(el("label", "side-label"), name, box);
  };
  const go = el("button", "button", "Compare", { type: "submit" });
  const swap = el("button", "button", "⇄", { type: "button", title: "exchange A and B" });
  swap.setAttribute("aria-label", "Exchange A and B");
  swap.addEventListener("click", () => compare(v, v.b.value.trim(), v.a.value.trim()));
  add(node, field("A", v.a), field("B", v.b), add(el("div", "buttons"), swap, go));
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    compare(v, v.a.value.trim(), v.b.value.trim());
  });
  return node;
}

/**
 * @param {View} v
 * @returns {HTMLElement}
 */
function list(v) {
  const node = el("div", "presets", null, { role: "group", "aria-label": "Comparisons" });
  v.boot.presets.forEach((preset, i) => {
    const button = el("button", "preset", preset.name, { type: "button", "data-preset": i });
    button.setAttribute("aria-pressed", "false");
    button.disabled = Boolean(preset.lacks);
    if (preset.lacks) button.title = preset.lacks;
    button.addEventListener("click", () => compare(v, preset.a, preset.b));
    node.appendChild(button);
  });
  return node;
}

/** @param {string} name */
const boxOf = (name) =>
  el("input", "where-box", null, {
    type: "text",
    id: `select-${name}`,
    "aria-label": `Selection ${name.toUpperCase()}`,
    autocomplete: "off",
    spellcheck: "false",
  });

/** @param {Boot | null} boot */
function mount(boot) {
  const root = document.getElementById("compare-app");
  if (!root || !boot) return;
  const body = el("div", "compare-body");
  /** @type {View} */
  const v = {
    boot,
    root,
    body,
    a: boxOf("a"),
    b: boxOf("b"),
    contrast: null,
    nothing: null,
    shift: null,
    shiftError: "",
    shown: null,
  };
  view = v;
  /** @type {Preset | undefined} */
  const first = boot.presets.find((preset) => !preset.lacks);
  const asked = param("a") !== null || param("b") !== null;
  v.a.value = (asked ? param("a") : first?.a) || "";
  v.b.value = (asked ? param("b") : first?.b) || "";
  const label = termed(el("span", "label", "Comparisons"), "contrast");
  root.replaceChildren(add(el("div", "toolbar"), label, list(v)), form(v), body);
  mark(v);
  read(v);
}

/** @type {Record<string, (v: View) => void>} */
const KEYS = {
  "[": (v) => v.shown?.step(-1, 0),
  "]": (v) => v.shown?.step(1, 0),
  ArrowLeft: (v) => v.shown?.step(0, -1),
  ArrowRight: (v) => v.shown?.step(0, 1),
  Enter: (v) => {
    const href = v.shown?.card();
    if (href) go(href);
  },
  e: toggleEqual,
  q: (v) => setRate(v, RATES[(RATES.indexOf(state().rate) + 1) % RATES.length]),
  0: toggleNothing,
  "/": (v) => v.a.select(),
};

pageKeys(here, KEYS);
onTheme(() => here()?.shown?.draw());

clientside("compare", { mount: quietly(mount) });
