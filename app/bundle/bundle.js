// A bundle's pages without a server: a list of traces, one trace, its usage of experts.
// The address is index.html?trace=3&view=usage; the trace page's own parameters stand beside.

import { intParam, param, setParams } from "../shared/address.js";
import { contextOf } from "../shared/canvas.js";
import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { add, el, part } from "../shared/dom.js";
import { number, percent } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { ATTENTION_BLOCK, ROUTING_BLOCK } from "../trace/constants.js";
import { mount } from "../trace/view.js";

/** @import { Host } from "../shared/host.js" */

/** @typedef {import("../trace/types.js").Boot & {heads_block: number}} Boot */

/**
 * A trace's line in the list (writer.py).
 * @typedef {object} Summary
 * @property {number} trace_id
 * @property {string} prompt
 * @property {string | null} task
 * @property {boolean | null} correct
 * @property {string | null} answer
 * @property {number} tokens
 * @property {number} n_prompt
 * @property {number} n_think
 * @property {number} n_answer
 * @property {string} finish_reason
 * @property {number | null} entropy
 * @property {string} model
 * @property {string} mode
 */

/**
 * Times chosen [S, E] in each phase that has tokens.
 * @typedef {{layers: number[], experts: number, phases: Record<string, {tokens: number, n: string}>}} Usage
 */

/** @typedef {{count: Float64Array, tokens: number, share: Float64Array}} Shares */

const GUTTER = 40; // pixels for the layers' names
const root = part("page");
let headsBlock = 1;

// --- files in place of the server -----------------------------------------------------------------

/**
 * Addresses of the dashboard as files of the bundle; blocks are named by their first token.
 * @param {string} path
 */
const fileOf = (path) => {
  const [, kind, pos] = path.match(/\/(routing|statistics|attention)(?:\/[\w.]+)?\/(\d+)$/) || [];
  const size =
    kind === "routing" ? ROUTING_BLOCK : kind === "attention" ? ATTENTION_BLOCK : headsBlock;
  const name = kind ? path.replace(/\d+$/, String(Number(pos) - (Number(pos) % size))) : path;
  return `${name.replace(/^\//, "")}.json`;
};

/** @type {Host} */
const files = {
  param,
  setParams,

  async fetchJson(path) {
    const response = await fetch(fileOf(path));
    if (!response.ok) throw new Error(`The bundle lacks ${fileOf(path)} (${response.status}).`);
    return response.json();
  },
  go(href) {
    const [, trace] = href.match(/^\/trace\/(\d+)$/) || [];
    window.location.search = trace ? `?trace=${trace}` : "";
  },
  // The dashboard's page of an expert is not part of a bundle: its links become plain text.
  link: (_href, className, text) => el("span", className, text),
};

// --- the list -------------------------------------------------------------------------------------

/** @type {[string, string][]} Headings of the list, and the classes of their columns. */
const COLUMNS = [
  ["Trace", "number"],
  ["Prompt", ""],
  ["Task", ""],
  ["Answer", ""],
  ["Tokens", "number"],
  ["Entropy", "number"],
];

/** @param {{title: string, traces: Summary[]}} index */
function list(index) {
  const header = add(
    el("header", "page-header"),
    el("h1", "", index.title),
    el("p", "dim", `${index.traces.length} traces, exported from ringlens`),
  );
  const heads = COLUMNS.map(([name, className]) => el("th", className, name));
  const body = add(el("tbody"), ...index.traces.map(row));
  const table = add(el("table"), add(el("thead"), add(el("tr"), ...heads)), body);
  const box = add(el("div", "bundle-list"), table);
  root.replaceChildren(add(el("div", "page"), header, box));
}

/** @param {Summary} trace */
function row(trace) {
  const [kind, word] = trace.correct ? ["good", "correct"] : ["bad", "wrong"];
  const verdict = trace.correct === null ? null : el("span", `pill ${kind}`, word);
  const link = el("a", "", trace.prompt, { href: `?trace=${trace.trace_id}` });
  return add(
    el("tr"),
    el("td", "number", trace.trace_id),
    add(el("td"), link),
    el("td", "", trace.task ?? ""),
    add(el("td"), verdict, el("span", "", ` ${trace.answer ?? ""}`)),
    el("td", "number", trace.tokens),
    el("td", "number", trace.entropy === null ? "not recorded" : number(trace.entropy, 3)),
  );
}

// --- one trace ------------------------------------------------------------------------------------

/**
 * @param {string} text
 * @param {string} href
 */
const button = (text, href) => el("a", "button", text, { href });

/**
 * @param {Summary} trace
 * @param {Boot} boot
 * @param {string | null} view
 */
function header(trace, boot, view) {
  const here = `?trace=${trace.trace_id}`;
  const usage = view === "usage";
  const links = add(
    el("div", "buttons"),
    usage ? button("Text", here) : null,
    !usage && boot.has_routing ? button("Usage", `${here}&view=usage`) : null,
    boot.previous === null ? null : button("Previous", `?trace=${boot.previous}`),
    boot.next === null ? null : button("Next", `?trace=${boot.next}`),
  );
  const crumbs = add(
    el("div", "crumbs"),
    el("a", "", "Traces", { href: "?" }),
    el("span", "dim", "/"),
    el("span", "", `Trace ${trace.trace_id}`),
  );
  const facts = [
    `${trace.tokens} tokens`,
    `${trace.n_prompt} prompt`,
    `${trace.n_think} think`,
    `${trace.n_answer} answer`,
    trace.finish_reason,
    `${trace.model}, ${trace.mode}`,
  ];
  return add(
    el("header", "page-header"),
    add(el("div", "crumb-row"), crumbs, links),
    add(el("div", "title-row"), el("h1", "", trace.prompt)),
    add(el("div", "fact-row"), ...facts.map((fact) => el("span", "", fact))),
  );
}

// --- usage ----------------------------------------------------------------------------------------

/**
 * Share of the tokens that chose each expert [S, E], for a phase or all of them.
 * @param {Usage} body
 * @param {string} phase
 * @returns {Shares}
 */
const sharesOf = (body, phase) => {
  const count = new Float64Array(body.layers.length * body.experts);
  let tokens = 0;
  const chosen = phase === "all" ? Object.keys(body.phases) : [phase];
  for (const name of chosen.filter((each) => body.phases[each])) {
    tokens += body.phases[name].tokens;
    decode(body.phases[name].n, "u4").forEach((n, i) => {
      count[i] += n;
    });
  }
  return { count, tokens, share: count.map((n) => n / tokens) }; // NaN where no token was routed
};

/**
 * Draw the map; returns the height of a row.
 * @param {HTMLCanvasElement} canvas
 * @param {Usage} body
 * @param {Shares} found
 */
function draw(canvas, body, found) {
  const { layers, experts } = body;
  const palette = colours.heat();
  const top = found.share.reduce((a, b) => Math.max(b, a), 0) || 1;
  const height = Math.max(7, Math.min(34, Math.floor(600 / layers.length)));
  const width = canvas.clientWidth - GUTTER;
  const context = contextOf(canvas, canvas.clientWidth, height * layers.length);
  const every = Math.ceil(14 / height);
  context.font = "11px sans-serif";
  context.textBaseline = "middle";
  context.fillStyle = window.getComputedStyle(canvas).color;
  layers.forEach((layer, at) => {
    if (at % every === 0) context.fillText(`L${layer}`, 4, (at + 0.5) * height);
  });
  found.share.forEach((share, i) => {
    if (Number.isNaN(share)) return;
    const x = i % experts;
    const step = Math.floor((share / top) * (palette.length - 1));
    context.fillStyle = palette[Math.min(palette.length - 1, step)];
    const left = Math.floor((x * width) / experts);
    const right = Math.ceil(((x + 1) * width) / experts);
    context.fillRect(GUTTER + left, Math.floor(i / experts) * height, right - left, height - 1);
  });
  return height;
}

/**
 * @param {HTMLElement} box
 * @param {Summary} trace
 */
async function usage(box, trace) {
  /** @type {Usage} */
  const body = await files.fetchJson(`/data/trace/${trace.trace_id}/usage`);
  const what = "Share of tokens that chose an expert: a row is a layer, a column an expert.";
  const note = el("p", "bundle-note", what);
  const canvas = el("canvas", "", null, { role: "img", "aria-label": "Experts by layer" });
  const group = el("div", "segments", null, { role: "group", "aria-label": "Phase" });
  const phases = ["all", ...PHASES.filter((phase) => body.phases[phase])];
  const buttons = phases.map((phase) =>
    el("button", "", phase, { type: "button", "data-phase": phase }),
  );
  let found = sharesOf(body, "all");
  let height = 0;
  const redraw = () => {
    height = draw(canvas, body, found);
  };
  /** @param {string} phase */
  const show = (phase) => {
    for (const each of buttons) {
      each.setAttribute("aria-pressed", String(each.dataset.phase === phase));
    }
    found = sharesOf(body, phase);
    redraw();
  };
  for (const each of buttons) each.addEventListener("click", () => show(each.dataset.phase || ""));
  canvas.addEventListener("mousemove", (event) => {
    const at = canvas.getBoundingClientRect();
    const inside = (event.clientX - at.left - GUTTER) / (at.width - GUTTER);
    const expert = Math.floor(inside * body.experts);
    const s = Math.floor((event.clientY - at.top) / height);
    if (!(s in body.layers) || expert < 0 || expert >= body.experts) return;
    const i = s * body.experts + expert;
    const of = `${found.count[i]} of ${found.tokens} tokens, ${percent(found.share[i])}`;
    note.textContent = `Layer ${body.layers[s]}, expert ${expert}: chosen for ${of}`;
  });
  const bar = add(el("div", "toolbar"), el("span", "label", "Phase"), add(group, ...buttons));
  add(box, bar, add(el("div", "bundle-map"), note, canvas));
  show("all");
  window.addEventListener("resize", redraw);
  box.dataset.ready = "true";
}

// --- which page -----------------------------------------------------------------------------------

async function open() {
  const id = intParam("trace");
  /** @type {{title: string, traces: Summary[]}} */
  const index = await files.fetchJson("/data/index");
  if (id === null) return list(index);
  const trace = index.traces.find((each) => each.trace_id === id);
  if (!trace) throw new Error(`There is no trace ${id} in this bundle.`);
  /** @type {Boot} */
  const boot = await files.fetchJson(`/data/trace/${id}/boot`);
  headsBlock = boot.heads_block;
  const view = param("view");
  const page = add(el("div", "page trace-page"), header(trace, boot, view));
  root.replaceChildren(page);
  if (view === "usage") {
    const box = page.appendChild(el("div", "bundle-usage"));
    return usage(box, trace);
  }
  const frame = page.appendChild(el("div", "trace-app", null, { id: "trace-app" }));
  return mount(frame, boot, files);
}

open().catch((error) => {
  const title = el("h2", "", "This cannot be shown");
  root.replaceChildren(add(el("div", "state"), title, el("p", "", error.message)));
});
