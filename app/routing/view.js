// Usage of experts, from numbers that are here in every metric and phase: the map, its bar, and the
// panel of an expert; on the page of the dashboard, in a bundle and in a notebook.

import { whole as wholeNumber } from "../shared/address.js";
import { add, el, hit, inDialog, typing } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { legend } from "../shared/grid_map.js";
import { messageOf, plural } from "../shared/text.js";
import { METRICS, UNKNOWN } from "./constants.js";
import { CLOSER, controlsOf } from "./controls.js";
import { scaleOf } from "./drawing.js";
import { evidencePanel } from "./evidence.js";
import { usageMap } from "./map.js";
import { readExperts, saidOfExpert } from "./said.js";
import { summary } from "./summary.js";
import { decodeCounts } from "./usage.js";
import { panned, revealing, whole, zoomed } from "./zoom.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Host } from "../shared/host.js" */
/** @import { Acts, Boot, Counts, Focus, Shape, View } from "./types.js" */

/**
 * Show usage in a frame.
 * @param {HTMLElement} root
 * @param {Boot} boot
 * @param {Host} host
 * @param {EventTarget} keys What hears the keys: the document; where others live on it, the frame.
 */
export async function mount(root, boot, host, keys = document) {
  const waits = el("div", "loading", "Reading the usage of experts…");
  root.replaceChildren(waits);
  delete root.dataset.ready;
  let counts;
  try {
    counts = decodeCounts(await host.fetchJson(boot.usage));
  } catch (error) {
    const title = el("h2", "", "The usage of experts cannot be read");
    root.replaceChildren(add(el("div", "state"), title, el("p", "", messageOf(error))));
    return;
  }
  if (!waits.isConnected) return; // something else took its place
  if (!counts.phases.all) {
    const title = el("h2", "", "There is nothing to count yet");
    const said = "No token of it was routed.";
    root.replaceChildren(add(el("div", "state"), title, el("p", "", said)));
    return;
  }
  const view = restored(host, counts);
  const shown = parts(view, boot);
  root.replaceChildren(shown.controls.node, shown.body);
  shown.acts.draw();
  listen(shown, keys);
  readExperts(counts.shape, host);
  root.dataset.ready = "true";
  return view;
}

/**
 * The state that the host asks for; what does not exist falls back to what always does.
 * @param {Host} host
 * @param {Counts} counts
 * @returns {View}
 */
function restored(host, counts) {
  const { layers, experts } = counts.shape;
  const [metric, phase] = [host.param("metric"), host.param("phase")];
  const [layer, expert] = [wholeNumber(host.param("L")), wholeNumber(host.param("E"))];
  return {
    host,
    counts,
    metric: metric && counts.view(metric, "all") ? metric : "share",
    phase: phase && counts.phases[phase] ? phase : "all",
    focus: {
      L: layer !== null && layers.includes(layer) ? layer : layers[0],
      E: expert !== null && expert < experts ? expert : null,
    },
    setFocus: () => {},
  };
}

/** @typedef {ReturnType<typeof parts>} Parts */

const SLOW = " · counted in the routing itself, which takes longer; for good sums it up ";

/**
 * Whether layers between those that were recorded were not.
 * @param {Shape} shape
 */
const hasGaps = ({ layers }) => layers[layers.length - 1] - layers[0] + 1 > layers.length;

/**
 * @param {View} view
 * @param {Boot} boot
 */
function parts(view, { of }) {
  const { counts, host } = view;
  const { shape } = counts;
  const note = el("div", "routing-note");
  const aside = el("aside", "routing-panel", null, { "aria-label": "Expert" });
  const map = usageMap(
    shape,
    () => view.focus,
    (found) => view.setFocus({ ...view.focus, ...found }, false),
    host,
  );
  const frame = add(el("div", "usage-map"), map.node);
  const labelled = { "aria-label": "Usage of experts" };
  const main = add(el("section", "routing-main", null, labelled), note, frame);
  const body = add(el("div", "routing-body"), main, aside);
  const evidence = of ? evidencePanel(view, of) : null;

  function describe() {
    const metric = METRICS.find((each) => each.name === view.metric) || METRICS[0];
    const usage = counts.view(view.metric, view.phase);
    const minus = view.phase === "difference" ? ", think minus answer" : "";
    const what = termed(el("span", "reading", `${metric.title}${minus}`), metric.term);
    const { tokens } = counts.phases[view.phase];
    const numbers = tokens.map((n) => n.toLocaleString("en"));
    const counted =
      tokens.length > 1
        ? `${numbers[0]} think and ${numbers[1]} answer tokens`
        : plural(tokens[0], "token");
    const said = add(el("span"), what, el("span", "", ` · ${usage ? counted : UNKNOWN}`));
    if (counts.command) add(said, el("span", "dim", SLOW), el("code", "", counts.command));
    note.replaceChildren(said);
    if (!usage) return;
    add(
      said,
      el("span", "", " · beside: "),
      termed(el("span", "", "MaxVio"), "MaxVio"),
      el("span", "", ", "),
      termed(el("span", "", "Gini"), "Gini"),
      hasGaps(shape) ? el("span", "", " · blank: not recorded") : null,
    );
    note.appendChild(legend(...usage.ends, scaleOf(usage)));
  }

  /** @type {{of: Focus, strip: Strip | null}} */
  let said = { of: { L: -1, E: null }, strip: null };

  /** Beside the map: numbers, and what people said of the expert in focus. */
  function tell() {
    const { L, E } = view.focus;
    if (said.of.L !== L || said.of.E !== E) {
      said = { of: view.focus, strip: saidOfExpert(shape, view.focus, host) };
    }
    aside.replaceChildren(summary(view), ...(said.strip ? [said.strip.node] : []));
    if (!evidence) return;
    aside.appendChild(evidence.node);
    evidence.show();
  }

  function draw() {
    const usage = counts.view(view.metric, view.phase);
    describe();
    if (usage) map.draw(usage);
    tell();
    controls.mark();
  }

  /** @type {View["setFocus"]} */
  view.setFocus = (focus, closer) => {
    view.focus = focus;
    host.setParams({ L: focus.L, E: focus.E });
    if (focus.E !== null) map.look(revealing(map.window(), focus.L, focus.E, closer));
    if (closer) map.scrollTo(focus.L);
    map.mark();
    tell();
  };

  /** @type {Acts["step"]} */
  function step(down, right) {
    const row = shape.layers.indexOf(view.focus.L) + down;
    const L = shape.layers[Math.max(0, Math.min(shape.layers.length - 1, row))];
    const { E } = view.focus;
    const expert = E === null ? (right ? 0 : null) : E + right;
    const last = shape.experts - 1;
    view.setFocus({ L, E: expert === null ? null : Math.max(0, Math.min(last, expert)) }, false);
  }

  /** @type {Acts} */
  const acts = {
    draw,
    step,
    pan: (right, down) => map.look(panned(map.window(), right, down)),
    zoom: (factor) => map.look(zoomed(map.window(), factor, view.focus)),
    showWhole: () => map.look(whole(shape)),
    release: () => view.setFocus({ ...view.focus, E: null }, false),
    annotate: () => said.strip?.annotate(),
  };
  const controls = controlsOf(view, acts);
  return { controls, body, acts };
}

// --- keyboard -------------------------------------------------------------------------------------

/** @type {Record<string, (parts: Parts) => unknown>} */
const KEYS = {
  "[": ({ acts }) => acts.step(-1, 0),
  "]": ({ acts }) => acts.step(1, 0),
  ArrowLeft: ({ acts }) => acts.step(0, -1),
  ArrowRight: ({ acts }) => acts.step(0, 1),
  "/": ({ controls }) => controls.focus(),
  "+": ({ acts }) => acts.zoom(CLOSER),
  "=": ({ acts }) => acts.zoom(CLOSER),
  "-": ({ acts }) => acts.zoom(1 / CLOSER),
  0: ({ acts }) => acts.showWhole(),
  Escape: ({ acts }) => acts.release(),
  a: ({ acts }) => acts.annotate(),
};
/** @type {Record<string, [number, number]>} */
const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Have keys and the colour scheme act on the map, until it leaves the page.
 * @param {Parts} shown
 * @param {EventTarget} keys
 */
function listen(shown, keys) {
  const ends = new AbortController();
  const { signal } = ends;
  const isHere = () => {
    if (!shown.body.isConnected) ends.abort();
    return shown.body.isConnected;
  };
  /** @param {KeyboardEvent} event */
  const pressed = (event) => {
    if (!isHere() || typing(event) || inDialog()) return;
    const by = event.shiftKey ? PANS[event.key] : undefined;
    if (by) shown.acts.pan(...by);
    else if (KEYS[event.key]) KEYS[event.key](shown);
    else return;
    if (event.key.startsWith("Arrow")) hit(event, "a, button")?.blur();
    event.preventDefault();
  };
  const heard = /** @type {(event: Event) => void} */ (pressed);
  keys.addEventListener("keydown", heard, { signal });
  window.addEventListener("ringlens:theme", () => isHere() && shown.acts.draw(), { signal });
}
