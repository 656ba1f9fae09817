// The page of one expert: its card, for the tokens and the phase that the address asks for.

import { stripOf } from "../annotations/strip.js";
import { param, setParams } from "../shared/address.js";
import { PHASES } from "../shared/constants.js";
import { clientside, quietly } from "../shared/dash.js";
import { add, el, pageKeys } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { fetchJson, go, server } from "../shared/host.js";
import { messageOf, plural } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { SLOTS, waiting } from "./parts.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Boot, Parts } from "./types.js" */

const ALL = "all";

/**
 * @typedef {object} View
 * @property {Boot} boot
 * @property {HTMLElement} root
 * @property {HTMLElement} body
 * @property {Strip} strip What people said of it.
 * @property {HTMLInputElement} where
 * @property {HTMLElement} said
 * @property {Partial<Parts>} data
 * @property {Record<string, string>} errors
 * @property {string} phase
 */

/** @type {View | null} */
let view = null;

const here = () => (view && document.contains(view.root) ? view : null);

/**
 * Address of a part of the card.
 * @param {View} v
 * @param {keyof Parts} name
 */
function addressOf({ boot }, name) {
  const query = new URLSearchParams({ run: boot.run_id });
  const where = param("where");
  if (where && name !== "ablation") query.set("where", where);
  const path = name === "ablation" ? name : `card/${name}`;
  return `/data/expert/${boot.layer}/${boot.expert}/${path}?${query}`;
}

/** @param {View} v */
function draw(v) {
  if (!v.data.load) return;
  const parts = SLOTS.map((slot) => {
    const data = v.data[slot.from];
    return data ? slot.draw(data, v.boot, v.phase) : waiting(slot, v.errors[slot.from] || null);
  });
  v.body.replaceChildren(...parts);
  for (const button of v.root.querySelectorAll("[data-phase]")) {
    const chosen = button instanceof HTMLElement && button.dataset.phase === v.phase;
    button.setAttribute("aria-pressed", String(chosen));
  }
}

let turn = 0; // of the questions: an answer to an older one comes too late

/**
 * Read a part and draw it.
 * @param {View} v
 * @param {keyof Parts} name
 * @param {number} mine
 */
async function readPart(v, name, mine) {
  try {
    const found = await fetchJson(addressOf(v, name));
    if (view === v && turn === mine) v.data[name] = found;
  } catch (error) {
    v.errors[name] = messageOf(error);
  }
  if (view === v && turn === mine) draw(v);
}

/** @param {View} v */
async function read(v) {
  turn += 1;
  const mine = turn;
  v.data = {};
  v.errors = {};
  v.body.replaceChildren(el("div", "loading", "Reading the card…"));
  v.said.textContent = "";
  // What is wrong with the tokens is said once.
  await readPart(v, "load", mine);
  if (view !== v || turn !== mine) return;
  const { load } = v.data;
  if (!load) return refuse(v, v.errors.load);
  v.said.textContent = plural(load.traces, "trace");
  choosePhase(v);
  draw(v);
  const others = new Set(SLOTS.map((slot) => slot.from));
  others.delete("load");
  if (param("where")) for (const name of others) await readPart(v, name, mine);
  else await Promise.all([...others].map((name) => readPart(v, name, mine)));
  if (view === v && turn === mine) v.root.dataset.ready = "true";
}

/**
 * Say why there is no card.
 * @param {View} v
 * @param {string} why
 */
function refuse(v, why) {
  const title = el("h2", "", "There is no card of these tokens");
  const state = add(el("div", "state", null, { role: "alert" }), title, el("p", "", why));
  if (param("where")) {
    const all = el("button", "button", "All tokens of the run", { type: "button" });
    all.addEventListener("click", () => setWhere(v, ""));
    state.appendChild(all);
  }
  v.body.replaceChildren(state);
}

/**
 * The phase of the address, if the card has it; else thinking, if it thought.
 * @param {View} v
 */
function choosePhase(v) {
  const there = new Set(v.data.load?.rows.map((row) => row.phase));
  const wanted = param("phase");
  if (wanted === ALL || (wanted && there.has(wanted))) v.phase = wanted;
  else v.phase = there.has("think") ? "think" : ALL;
}

/**
 * @param {View} v
 * @param {string} phase
 */
function setPhase(v, phase) {
  v.phase = phase;
  setParams({ phase });
  draw(v);
}

/**
 * @param {View} v
 * @param {string} where
 */
function setWhere(v, where) {
  v.where.value = where;
  setParams({ where: where || null });
  delete v.root.dataset.ready;
  read(v);
}

/** @param {View} v */
function toolbar(v) {
  const phases = el("div", "segments", null, { role: "group", "aria-label": "Phase" });
  for (const phase of [ALL, ...PHASES]) {
    const name = phase[0].toUpperCase() + phase.slice(1);
    const button = el("button", "", name, { type: "button", "data-phase": phase });
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => setPhase(v, phase));
    phases.appendChild(button);
  }
  const form = el("form", "where-form", null, { role: "search" });
  const label = add(el("label", "where-label"), el("span", "", "Tokens where"), v.where);
  add(form, label, el("button", "button", "Apply", { type: "submit" }), v.said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setWhere(v, v.where.value.trim());
  });
  const bar = el("div", "toolbar");
  return add(bar, termed(el("span", "label", "Phase"), "phase"), phases, form);
}

/** @param {Boot | null} boot */
function mount(boot) {
  const root = document.getElementById("expert-app");
  if (!root || !boot) return;
  const where = el("input", "where-box", null, {
    type: "text",
    id: "where",
    placeholder: "every token of the run, or e.g. entropy > 1 and correct",
    autocomplete: "off",
    spellcheck: "false",
  });
  where.value = param("where") || "";
  const status = el("span", "dim", null, { role: "status" });
  const body = el("div", "expert-body");
  const { run_id, layer, expert } = boot;
  // What people say that it is for may have changed.
  const changed = () => v.data.label && readPart(v, "label", turn);
  const strip = stripOf({ run_id, layer, expert }, server, { key: "a", changed });
  /** @type {View} */
  const v = { boot, root, body, strip, where, said: status, data: {}, errors: {}, phase: ALL };
  view = v;
  delete root.dataset.ready;
  root.replaceChildren(strip.node, toolbar(v), body);
  read(v);
}

/**
 * To another expert, of the same tokens.
 * @param {View} v
 * @param {number} layer
 * @param {number} expert
 */
function open(v, layer, expert) {
  const query = new URLSearchParams(window.location.search);
  query.set("run", v.boot.run_id);
  go(`/expert/${layer}/${expert}?${query}`);
}

/** @type {Record<string, (v: View) => void>} */
const KEYS = {
  ArrowLeft: (v) => v.boot.expert > 0 && open(v, v.boot.layer, v.boot.expert - 1),
  ArrowRight: (v) => v.boot.expert + 1 < v.boot.experts && open(v, v.boot.layer, v.boot.expert + 1),
  "[": (v) => stepLayer(v, -1),
  "]": (v) => stepLayer(v, 1),
  "/": (v) => v.where.select(),
  a: (v) => v.strip.annotate(),
};
[ALL, ...PHASES].forEach((phase, i) => {
  KEYS[String(i + 1)] = (v) => setPhase(v, phase);
});

/**
 * @param {View} v
 * @param {number} by
 */
function stepLayer(v, by) {
  const { layers, layer, expert } = v.boot;
  const to = layers[layers.indexOf(layer) + by];
  if (to !== undefined) open(v, to, expert);
}

pageKeys(here, KEYS);
onTheme(() => {
  const v = here();
  if (v) draw(v);
});

clientside("expert", { mount: quietly(mount) });
