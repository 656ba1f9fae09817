// The page of one trace: state, data, keyboard. Drawing is in text, ribbon, panel and legend; each
// gets the view and reads from it, only this file changes it.

import { intParam, param, setParams } from "../shared/address.js";
import { add, el, hit, inDialog, typing } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { fetchJson, go } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { decode } from "../shared/typed_arrays.js";
import { headIn, headSources, headText } from "./attention.js";
import { blocksOf } from "./blocks.js";
import { decodeHeads } from "./heads.js";
import { drawLegend } from "./legend.js";
import { above, matchesOf, NO_MATCHES } from "./matches.js";
import { attends, lacks, METRICS, paintOf } from "./metrics.js";
import { tracePanel } from "./panel.js";
import { traceRibbon } from "./ribbon.js";
import { stepBeside, stepsOf } from "./steps.js";
import { traceText } from "./text.js";
import { traceWays } from "./ways.js";

/** @import { Boot, Head, Tokens, View } from "./types.js" */

/** @type {View} */
let view;

/** Whether the trace is drawn and still on the page. */
const isShown = () => view?.ready && document.contains(view.root);

// --- painting -------------------------------------------------------------------------------------

/**
 * Fetch what the metric still lacks.
 * @param {View} v
 */
async function need(v) {
  const { head, pos } = v;
  if (head && pos !== null) {
    const found = await v.heads.load(head, pos);
    if (v.head === head && v.pos === pos) v.sources = found;
    return;
  }
  const base = `/data/trace/${v.boot.trace_id}`;
  if (v.metric === "margin" && !v.data.margin) {
    v.data.margin = decode((await fetchJson(`${base}/margin`)).margin, "f4");
  }
  const { layer } = v;
  if (v.metric === "expert" && layer !== null && !v.layers.has(layer)) {
    const body = await fetchJson(`${base}/layer/${layer}`);
    v.layers.set(layer, {
      expert: decode(body.expert, "u2"),
      share: decode(body.share, "f4"),
      made: body.made,
    });
  }
}

async function paint() {
  const v = view;
  const { head, pos } = v;
  try {
    await need(v);
  } catch (error) {
    return v.fail(error);
  }
  if (view !== v || v.head !== head || (head && v.pos !== pos)) return; // another paint follows
  const found = paintOf(v);
  if (!found) return;
  v.paint = found;
  v.text.recolor();
  v.ribbon.draw();
  drawLegend(v);
}

// --- changing the state ---------------------------------------------------------------------------

/**
 * @param {number | null} pos
 * @param {boolean} scroll
 */
function setPos(pos, scroll) {
  view.pos = pos === null ? null : Math.max(0, Math.min(view.count - 1, pos));
  setParams({ tok: view.pos });
  if (view.head) {
    showMetric(view.metric);
    paint();
  }
  placeFound();
  view.text.focus(scroll);
  view.ribbon.mark();
  view.panel.show();
}

/** @param {number} layer */
function setLayer(layer) {
  if (!view.boot.sparse_layers.includes(layer)) return;
  view.layer = layer;
  setParams({ L: layer });
  view.layerSelect.value = String(layer);
  view.panel.show();
  if (view.metric === "expert") paint();
  else view.ribbon.mark();
}

/** @param {number | null} expert */
function setOnly(expert) {
  view.only = expert;
  paint();
}

/**
 * Show what a head attends to in place of the metric; null for the metric again.
 * @param {Head | null} head
 */
function setHead(head) {
  view.head = head;
  view.sources = null;
  setParams({ h: head && headText(head) });
  showMetric(view.metric);
  view.panel.show();
  paint();
}

/**
 * Find a text. The focus stays where it is: while one types, it would jump about.
 * @param {string} query
 */
function setFound(query) {
  setParams({ find: query || null });
  view.found = matchesOf(view.data.text, query);
  placeFound();
  view.ribbon.draw();
}

/** Which of the places that were found is at the focused token. */
function placeFound() {
  const { found, pos } = view;
  const { ends } = view.data;
  /** @type {(at: number) => boolean} */
  const isHere = (at) =>
    pos !== null && above(ends, found.starts[at]) <= pos && pos <= above(ends, found.ends[at] - 1);
  if (view.foundAt === null || !(view.foundAt < found.starts.length) || !isHere(view.foundAt)) {
    const first = pos === null ? 0 : above(found.ends, pos ? ends[pos - 1] : 0);
    view.foundAt = first < found.starts.length && isHere(first) ? first : null;
  }
  view.text.markFound();
  view.ways.show();
}

/** @param {1 | -1} by */
function stepFound(by) {
  const { starts } = view.found;
  const { ends } = view.data;
  if (!starts.length) return;
  const pos = view.pos ?? Math.floor(view.text.visible()[0]) - 1;
  const beside = above(starts, (pos >= 0 ? ends[pos] : 0) - 1);
  const at = view.foundAt !== null ? view.foundAt + by : by > 0 ? beside : beside - 1;
  view.foundAt = (at + starts.length) % starts.length; // on from the other end
  setPos(above(ends, starts[view.foundAt]), true);
}

/** @param {string} metric */
function setMetric(metric) {
  view.only = null;
  setParams({ metric });
  if (view.head) setHead(null);
  showMetric(metric);
  paint();
}

/** @param {string} metric */
function showMetric(metric) {
  view.metric = metric;
  for (const button of metricButtons()) {
    button.setAttribute("aria-pressed", String(!attends(view) && button.dataset.metric === metric));
  }
  view.layerBox.hidden = metric !== "expert" || attends(view);
}

/** @returns {NodeListOf<HTMLButtonElement>} */
const metricButtons = () => view.root.querySelectorAll("button[data-metric]");

/** @param {number} by */
function stepLayer(by) {
  const layers = view.boot.sparse_layers;
  if (!layers.length || view.layer === null) return;
  const at = layers.indexOf(view.layer) + by;
  setLayer(layers[Math.max(0, Math.min(layers.length - 1, at))]);
}

/** @param {number} by */
const stepToken = (by) => setPos(view.pos === null ? 0 : view.pos + by, true);
/** @param {number} by */
const stepLine = (by) => setPos(view.text.lineStep(by), true);
/**
 * To the next or previous step; where a trace has none, to the line.
 * @param {1 | -1} by
 */
const stepStep = (by) => {
  if (!view.steps) return stepLine(by);
  const pos = stepBeside(view.steps, view.pos, by);
  if (pos !== null) setPos(pos, true);
};
/** @param {number | null} trace */
const openTrace = (trace) => trace !== null && go(`/trace/${trace}${view.boot.list}`);

// --- keyboard -------------------------------------------------------------------------------------

/** @type {Record<string, () => void>} */
const KEYS = {
  ArrowRight: () => stepToken(1),
  ArrowLeft: () => stepToken(-1),
  j: () => stepStep(1),
  k: () => stepStep(-1),
  ArrowDown: () => stepLine(1),
  ArrowUp: () => stepLine(-1),
  "]": () => stepLayer(1),
  "[": () => stepLayer(-1),
  n: () => openTrace(view.boot.next),
  p: () => openTrace(view.boot.previous),
  h: () => view.panel.enterMap(),
  m: () => view.panel.turn(),
  Escape: () => (view.head ? setHead(null) : setPos(null, false)),
  "/": () => view.ways.focus(),
  ".": () => view.ways.toPeak(1),
  ",": () => view.ways.toPeak(-1),
  "}": () => view.ways.toPhase(1),
  "{": () => view.ways.toPhase(-1),
};
METRICS.forEach((metric, i) => {
  KEYS[String(i + 1)] = () => {
    if (lacks(view.boot, metric.id) === null) setMetric(metric.id);
  };
});

document.addEventListener("keydown", (event) => {
  if (!isShown() || typing(event) || inDialog()) return;
  const action = KEYS[event.key];
  if (!action) return;
  if (event.key.startsWith("Arrow")) hit(event, "a, button")?.blur();
  event.preventDefault();
  action();
});

onTheme(() => {
  if (!isShown()) return;
  paint();
  view.panel.show();
});

// --- mounting -------------------------------------------------------------------------------------

/** @param {View} v */
function toolbar(v) {
  const group = el("div", "segments", null, { role: "group", "aria-label": "Colour by" });
  for (const metric of METRICS) {
    const button = el("button", "", metric.label, {
      type: "button",
      "data-metric": metric.id,
      "aria-pressed": "false",
    });
    const why = lacks(v.boot, metric.id);
    button.disabled = why !== null;
    if (why) button.title = why;
    else termed(button, metric.term);
    button.addEventListener("click", () => setMetric(metric.id));
    group.appendChild(button);
  }
  for (const layer of v.boot.sparse_layers) {
    v.layerSelect.appendChild(el("option", "", `L${layer}`, { value: layer }));
  }
  v.layerSelect.addEventListener("change", () => setLayer(Number(v.layerSelect.value)));
  v.layerBox.appendChild(v.layerSelect);
  return add(el("div", "toolbar"), el("span", "label", "Colour"), group, v.layerBox, v.legend);
}

/**
 * @param {any} body
 * @returns {Tokens}
 */
function decodeTokens(body) {
  const logprob = decode(body.logprob, "f4");
  return {
    text: body.text,
    ends: decode(body.ends, "u4"),
    ids: decode(body.ids, "u4"),
    phase: decode(body.phase, "u1"),
    logprob,
    surprise: logprob.map((x) => -x),
    entropy: decode(body.entropy, "f4"),
    margin: null,
  };
}

/**
 * Show a trace in the frame that is on the page, if it is.
 * @param {Boot | null} boot
 */
export async function mount(boot) {
  const root = document.getElementById("trace-app");
  if (!root || !boot) return;
  /** @param {unknown} error */
  const fail = (error) => {
    const said = messageOf(error);
    const title = el("h2", "", "This trace cannot be read");
    root.replaceChildren(add(el("div", "state"), title, el("p", "", said)));
  };
  const started = /** @type {Partial<View>} */ ({
    boot,
    root,
    fail,
    setPos,
    setLayer,
    setOnly,
    setHead,
    setFound,
    stepFound,
    found: NO_MATCHES,
    foundAt: null,
    ready: false,
    layers: new Map(),
    steps: null,
    noSteps: null,
    only: null,
    head: null,
    sources: null,
    pos: null,
    paint: null,
    layer: null,
    legend: el("div", "legend"),
    layerBox: el("label", "layer-box", "layer"),
    layerSelect: el("select", "", null, { "aria-label": "Layer" }),
  });
  const v = /** @type {View} */ (started); // build() adds the rest
  view = v;
  delete root.dataset.ready;
  root.replaceChildren(el("div", "loading", "Reading the trace…"));
  try {
    const [body, steps] = await Promise.all([
      fetchJson(`/data/trace/${boot.trace_id}/tokens`),
      stepsOf(boot.trace_id),
    ]);
    v.data = decodeTokens(body);
    if ("lacks" in steps) v.noSteps = steps;
    else v.steps = steps;
  } catch (error) {
    return fail(error);
  }
  if (view !== v || !document.contains(root)) return;
  build(v);
  restore(v);
  v.ready = true;
  root.dataset.ready = "true";
}

/** @param {View} v */
function build(v) {
  const { ends, text } = v.data;
  v.count = ends.length;
  v.token = (i) => text.slice(i ? ends[i - 1] : 0, ends[i]);
  v.statistics = new Map(
    v.boot.head_tables.map((table) => [
      table.table,
      blocksOf(`/data/trace/${v.boot.trace_id}/statistics/${table.table}`, (body) =>
        decodeHeads(body, table),
      ),
    ]),
  );
  v.heads = headSources(v.boot, v.statistics);
  v.text = traceText(v);
  v.ribbon = traceRibbon(v);
  v.panel = tracePanel(v);
  v.ways = traceWays(v);
  const main = el("section", "trace-main", null, { "aria-label": "Chain of thought" });
  add(main, toolbar(v), v.ribbon.node, v.ways.node, v.text.node);
  v.root.replaceChildren(main, v.panel.node);
  v.text.build();
}

/**
 * Take what the URL asks for; what does not exist falls back to what always does.
 * @param {View} v
 */
function restore(v) {
  const layers = v.boot.sparse_layers;
  const layer = intParam("L");
  if (layer !== null && layers.includes(layer)) v.layer = layer;
  else v.layer = layers.length ? layers[layers.length >> 1] : null;
  if (v.layer !== null) v.layerSelect.value = String(v.layer);
  v.head = headIn(param("h"), v.boot);
  const known = METRICS.filter((metric) => lacks(v.boot, metric.id) === null);
  const asked = known.find((metric) => metric.id === param("metric"));
  showMetric((asked || known[0]).id);
  paint();
  const query = param("find");
  if (query) setFound(query);
  const pos = intParam("tok");
  if (pos !== null && pos < v.count) setPos(pos, true);
  else v.panel.show();
}
