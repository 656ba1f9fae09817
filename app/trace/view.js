// One trace: state, data, keyboard. Drawing is in text, ribbon, panel and legend; each gets the view
// and reads from it, only this file changes it. A page may show several.

import { stripOf } from "../annotations/strip.js";
import { whole } from "../shared/address.js";
import { add, el, hit, inDialog, typing, whenIdle } from "../shared/dom.js";
import { readLabels } from "../shared/expert_labels.js";
import { termed } from "../shared/glossary.js";
import { messageOf } from "../shared/text.js";
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

/** @import { Host } from "../shared/host.js" */
/** @import { Answer } from "../annotations/types.js" */
/** @import { Boot, Head, Tokens, View } from "./types.js" */

/**
 * Whether a trace is drawn and still on the page.
 * @param {View} view
 */
const isShown = (view) => view.ready && view.root.isConnected;

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
  if (v.metric === "margin" && !v.data.margin) {
    const body = await v.host.fetchJson(`/data/trace/${v.boot.trace_id}/margin`);
    v.data.margin = decode(body.margin, "f4");
  }
  if (v.metric === "expert" && v.layer !== null) await readLayer(v, v.layer);
}

/**
 * Fetch the heaviest experts of a layer; what is here or on its way is not asked for again.
 * @param {View} v
 * @param {number} layer
 */
function readLayer(v, layer) {
  const asked = v.layersAsked.get(layer);
  if (asked) return asked;
  const answer = v.host.fetchJson(`/data/trace/${v.boot.trace_id}/layer/${layer}`).then((body) => {
    const [expert, share] = [decode(body.expert, "u2"), decode(body.share, "f4")];
    v.layers.set(layer, { expert, share, made: body.made });
  });
  v.layersAsked.set(layer, answer);
  answer.catch(() => v.layersAsked.delete(layer));
  return answer;
}

/** @param {View} v */
const readLayerShown = (v) => v.layer !== null && readLayer(v, v.layer).catch(() => {});

/**
 * Fetch the layers to which keys lead from the one that is shown.
 * @param {View} v
 */
function readLayersBeside(v) {
  const layers = v.boot.sparse_layers;
  const at = v.layer === null ? -1 : layers.indexOf(v.layer);
  for (const beside of at < 0 ? [] : [layers[at + 1], layers[at - 1]]) {
    if (beside !== undefined) readLayer(v, beside).catch(() => {});
  }
}

/** @param {View} v */
async function paint(v) {
  const { head, pos } = v;
  try {
    await need(v);
  } catch (error) {
    return v.fail(error);
  }
  if (!v.root.isConnected || v.head !== head || (head && v.pos !== pos)) return; // another paint follows
  const found = paintOf(v);
  if (!found) return;
  v.paint = found;
  v.text.recolor();
  v.ribbon.draw();
  drawLegend(v);
  if (v.metric === "expert") whenIdle(() => readLayersBeside(v));
}

// --- changing the state ---------------------------------------------------------------------------

/**
 * @param {View} view
 * @param {number | null} pos
 * @param {boolean} scroll
 */
function setPos(view, pos, scroll) {
  view.pos = pos === null ? null : Math.max(0, Math.min(view.count - 1, pos));
  if (view.pos !== null) view.panel.ask(view.pos);
  view.host.setParams({ tok: view.pos });
  if (view.head) {
    showMetric(view, view.metric);
    paint(view);
  }
  placeFound(view);
  view.text.focus(scroll);
  view.ribbon.mark();
  view.panel.show();
}

/**
 * @param {View} view
 * @param {number} layer
 */
function setLayer(view, layer) {
  if (!view.boot.sparse_layers.includes(layer)) return;
  view.layer = layer;
  view.host.setParams({ L: layer });
  view.layerSelect.value = String(layer);
  view.panel.show();
  if (view.metric === "expert") paint(view);
  else view.ribbon.mark();
}

/**
 * @param {View} view
 * @param {number | null} expert
 */
function setOnly(view, expert) {
  view.only = expert;
  paint(view);
}

/**
 * Show what a head attends to in place of the metric; null for the metric again.
 * @param {View} view
 * @param {Head | null} head
 */
function setHead(view, head) {
  view.head = head;
  view.sources = null;
  view.host.setParams({ h: head && headText(head) });
  showMetric(view, view.metric);
  view.panel.show();
  paint(view);
}

/**
 * Find a text. The focus stays where it is: while one types, it would jump about.
 * @param {View} view
 * @param {string} query
 */
function setFound(view, query) {
  view.host.setParams({ find: query || null });
  view.found = matchesOf(view.data.text, query);
  placeFound(view);
  view.ribbon.draw();
}

/**
 * Which of the places that were found is at the focused token.
 * @param {View} view
 */
function placeFound(view) {
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

/**
 * @param {View} view
 * @param {1 | -1} by
 */
function stepFound(view, by) {
  const { starts } = view.found;
  const { ends } = view.data;
  if (!starts.length) return;
  const pos = view.pos ?? Math.floor(view.text.visible()[0]) - 1;
  const beside = above(starts, (pos >= 0 ? ends[pos] : 0) - 1);
  const at = view.foundAt !== null ? view.foundAt + by : by > 0 ? beside : beside - 1;
  view.foundAt = (at + starts.length) % starts.length; // on from the other end
  setPos(view, above(ends, starts[view.foundAt]), true);
}

/**
 * @param {View} view
 * @param {string} metric
 */
function setMetric(view, metric) {
  view.only = null;
  view.host.setParams({ metric });
  if (view.head) setHead(view, null);
  showMetric(view, metric);
  paint(view);
}

/**
 * @param {View} view
 * @param {string} metric
 */
function showMetric(view, metric) {
  view.metric = metric;
  for (const button of metricButtons(view)) {
    button.setAttribute("aria-pressed", String(!attends(view) && button.dataset.metric === metric));
  }
  view.layerBox.hidden = metric !== "expert" || attends(view);
}

/**
 * @param {View} view
 * @returns {NodeListOf<HTMLButtonElement>}
 */
const metricButtons = (view) => view.root.querySelectorAll("button[data-metric]");

/**
 * @param {View} view
 * @param {number} by
 */
function stepLayer(view, by) {
  const layers = view.boot.sparse_layers;
  if (!layers.length || view.layer === null) return;
  const at = layers.indexOf(view.layer) + by;
  setLayer(view, layers[Math.max(0, Math.min(layers.length - 1, at))]);
}

/**
 * @param {View} view
 * @param {number} by
 */
const stepToken = (view, by) => setPos(view, view.pos === null ? 0 : view.pos + by, true);
/**
 * @param {View} view
 * @param {number} by
 */
const stepLine = (view, by) => setPos(view, view.text.lineStep(by), true);
/**
 * To the next or previous step; where a trace has none, to the line.
 * @param {View} view
 * @param {1 | -1} by
 */
const stepStep = (view, by) => {
  if (!view.steps) return stepLine(view, by);
  const pos = stepBeside(view.steps, view.pos, by);
  if (pos !== null) setPos(view, pos, true);
};
/**
 * @param {View} view
 * @param {number | null} trace
 */
const openTrace = (view, trace) =>
  trace !== null && view.host.go(`/trace/${trace}${view.boot.list}`);

// --- keyboard -------------------------------------------------------------------------------------

/** @type {Record<string, (view: View) => void>} */
const KEYS = {
  ArrowRight: (view) => stepToken(view, 1),
  ArrowLeft: (view) => stepToken(view, -1),
  j: (view) => stepStep(view, 1),
  k: (view) => stepStep(view, -1),
  ArrowDown: (view) => stepLine(view, 1),
  ArrowUp: (view) => stepLine(view, -1),
  "]": (view) => stepLayer(view, 1),
  "[": (view) => stepLayer(view, -1),
  n: (view) => openTrace(view, view.boot.next),
  p: (view) => openTrace(view, view.boot.previous),
  h: (view) => view.panel.enterMap(),
  m: (view) => view.panel.turn(),
  a: (view) => view.said.annotate(),
  Escape: (view) => (view.head ? setHead(view, null) : setPos(view, null, false)),
  "/": (view) => view.ways.focus(),
  ".": (view) => view.ways.toPeak(1),
  ",": (view) => view.ways.toPeak(-1),
  "}": (view) => view.ways.toPhase(1),
  "{": (view) => view.ways.toPhase(-1),
};
METRICS.forEach((metric, i) => {
  KEYS[String(i + 1)] = (view) => {
    if (lacks(view.boot, metric.id) === null) setMetric(view, metric.id);
  };
});

/** With Ctrl or Cmd the browser selects all, searches, or prints. */
const BROWSERS = new Set(["a", "f", "p"]);

/**
 * Have keys and the colour scheme act on a trace, until it leaves the page.
 * @param {View} view
 * @param {EventTarget} keys
 */
function listen(view, keys) {
  const ends = new AbortController();
  /** @type {(act: (event: KeyboardEvent) => void) => (event: Event) => void} */
  const whileShown = (act) => (event) => {
    if (!view.root.isConnected || !view.root.contains(view.text.node)) ends.abort();
    else if (isShown(view)) act(/** @type {KeyboardEvent} */ (event));
  };
  const pressed = whileShown((event) => {
    if (typing(event) || inDialog() || !KEYS[event.key]) return;
    if (event.key.startsWith("Arrow")) hit(event, "a, button")?.blur();
    event.preventDefault();
    KEYS[event.key](view);
  });
  const handedOver = whileShown((event) => {
    if ((event.ctrlKey || event.metaKey) && BROWSERS.has(event.key)) view.text.makeAll();
  });
  const recoloured = whileShown(() => {
    paint(view);
    view.panel.show();
  });
  keys.addEventListener("keydown", pressed, { signal: ends.signal });
  keys.addEventListener("keydown", handedOver, { signal: ends.signal });
  window.addEventListener("ringlens:theme", recoloured, { signal: ends.signal });
}

// --- growing --------------------------------------------------------------------------------------

/**
 * What each frame shows.
 * @type {WeakMap<HTMLElement, View>}
 */
const shownIn = new WeakMap();

/**
 * Where somebody is in the text.
 * @typedef {{top: number, atEnd: boolean, focused: boolean}} Place
 */

/**
 * @param {View} view
 * @returns {Place}
 */
const placeIn = ({ text: { node } }) => ({
  top: node.scrollTop,
  atEnd: node.scrollTop + node.clientHeight > node.scrollHeight - 60,
  focused: node.contains(document.activeElement),
});

/**
 * Be where somebody was in the text, or at its new end where that was at the old one.
 * @param {View} view
 * @param {Place} place
 */
function goBack({ text: { node } }, { top, atEnd, focused }) {
  /** @param {number} looks What comes on screen takes its true height only then. */
  const go = (looks) => {
    node.scrollTop = atEnd ? node.scrollHeight : top;
    if (looks > 1 && node.isConnected) requestAnimationFrame(() => go(looks - 1));
  };
  go(4);
  if (focused) node.focus({ preventScroll: true });
}

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
    button.addEventListener("click", () => setMetric(v, metric.id));
    group.appendChild(button);
  }
  for (const layer of v.boot.sparse_layers) {
    v.layerSelect.appendChild(el("option", "", `L${layer}`, { value: layer }));
  }
  v.layerSelect.addEventListener("change", () => setLayer(v, Number(v.layerSelect.value)));
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
 * Show a trace in a frame. The trace that the frame showed before ends; if it is the same one, which
 * has grown, it stays until the new tokens are there, and whoever reads it stays where they are.
 * @param {HTMLElement} root
 * @param {Boot} boot
 * @param {Host} host
 * @param {EventTarget} keys What hears the keys: the document; where others live on it, the frame.
 */
export async function mount(root, boot, host, keys = document) {
  /** @param {unknown} error */
  const fail = (error) => {
    const said = messageOf(error);
    const title = el("h2", "", "This trace cannot be read");
    root.replaceChildren(add(el("div", "state"), title, el("p", "", said)));
  };
  const started = /** @type {Partial<View>} */ ({
    boot,
    host,
    root,
    fail,
    setPos: (pos, scroll) => setPos(v, pos, scroll),
    setLayer: (layer) => setLayer(v, layer),
    setOnly: (expert) => setOnly(v, expert),
    setHead: (head) => setHead(v, head),
    setFound: (query) => setFound(v, query),
    stepFound: (by) => stepFound(v, by),
    found: NO_MATCHES,
    foundAt: null,
    ready: false,
    layers: new Map(),
    layersAsked: new Map(),
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
  const before = shownIn.get(root);
  const grown = before?.ready && before.boot.trace_id === boot.trace_id ? before : null;
  shownIn.set(root, v);
  if (!grown) {
    delete root.dataset.ready;
    root.replaceChildren(el("div", "loading", "Reading the trace…"));
  }
  try {
    const [body, steps] = await Promise.all([
      host.fetchJson(`/data/trace/${boot.trace_id}/tokens`),
      stepsOf(host, boot.trace_id),
    ]);
    v.data = decodeTokens(body);
    if ("lacks" in steps) v.noSteps = steps;
    else v.steps = steps;
  } catch (error) {
    return fail(error);
  }
  if (!root.isConnected || shownIn.get(root) !== v) return; // another trace took its place
  const place = grown && placeIn(grown);
  build(v, grown?.said.answer());
  restore(v, !place);
  if (place) goBack(v, place);
  v.ready = true;
  root.dataset.ready = "true";
  listen(v, keys);
  if (lacks(boot, "expert") === null) whenIdle(() => isShown(v) && readLayerShown(v));
  return v;
}

/**
 * @param {View} v
 * @param {Answer | null} [said] What was said of it, as far as that is known.
 */
function build(v, said) {
  const { ends, text } = v.data;
  v.count = ends.length;
  v.token = (i) => text.slice(i ? ends[i - 1] : 0, ends[i]);
  v.statistics = new Map(
    v.boot.head_tables.map((table) => [
      table.table,
      blocksOf(v.host, `/data/trace/${v.boot.trace_id}/statistics/${table.table}`, (body) =>
        decodeHeads(body, table),
      ),
    ]),
  );
  v.heads = headSources(v.host, v.boot, v.statistics);
  v.text = traceText(v);
  v.ribbon = traceRibbon(v);
  v.panel = tracePanel(v);
  v.ways = traceWays(v);
  const main = el("section", "trace-main", null, { "aria-label": "Chain of thought" });
  v.said = saidOf(v, said);
  add(main, v.said.node, toolbar(v), v.ribbon.node, v.ways.node, v.text.node);
  v.root.replaceChildren(main, v.panel.node);
  v.text.build();
  v.text.markSaid();
}

/**
 * What people said of the trace and its steps; of the experts, it is read once.
 * @param {View} v
 * @param {Answer | null} [known]
 */
function saidOf(v, known) {
  const drawn = () => v.ready && v.panel.show();
  readLabels(v.boot.run_id, v.host).then((labels) => labels.size && drawn(), drawn);
  const ties = {
    key: "a",
    pos: () => v.pos,
    show: (/** @type {number} */ pos) => setPos(v, pos, true),
    changed: () => {
      if (!v.ready) return;
      v.text.markSaid();
      drawn();
    },
  };
  return stripOf({ trace_id: v.boot.trace_id }, v.host, ties, known);
}

/**
 * Take what the URL asks for; what does not exist falls back to what always does.
 * @param {View} v
 * @param {boolean} scroll Whether to scroll to the token.
 */
function restore(v, scroll) {
  const { host } = v;
  const layers = v.boot.sparse_layers;
  const layer = whole(host.param("L"));
  if (layer !== null && layers.includes(layer)) v.layer = layer;
  else v.layer = layers.length ? layers[layers.length >> 1] : null;
  if (v.layer !== null) v.layerSelect.value = String(v.layer);
  v.head = headIn(host.param("h"), v.boot);
  const known = METRICS.filter((metric) => lacks(v.boot, metric.id) === null);
  const asked = known.find((metric) => metric.id === host.param("metric"));
  showMetric(v, (asked || known[0]).id);
  paint(v);
  const query = host.param("find");
  if (query) setFound(v, query);
  const pos = whole(host.param("tok"));
  if (pos !== null && pos < v.count) setPos(v, pos, scroll);
  else v.panel.show();
}
