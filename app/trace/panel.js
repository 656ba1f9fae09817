// The panel of the focused token: what is known of it, its routing, its heads.

import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { roleColour, roleName } from "../shared/roles.js";
import { number, percent, visible } from "../shared/text.js";
import { drawSources, headChoice, headHint } from "./attention.js";
import { blocksOf } from "./blocks.js";
import { drawHeads } from "./heads.js";
import { pathMap } from "./path_map.js";
import { decodeRouting, drawRouting } from "./routing.js";
import { stepAt, stepBeside } from "./steps.js";

/** @import { Panel, View } from "./types.js" */

const REST = 60; // milliseconds

const KEYS = [
  ["← →", "token"],
  ["j k", "step"],
  ["↓ ↑", "line"],
  ["[ ]", "layer"],
  ["/", "find a text"],
  [", .", "entropy peak"],
  ["{ }", "phase"],
  ["1 – 5", "colour"],
  ["?", "all keys"],
];

/**
 * @param {View} view
 * @returns {Panel}
 */
export function tracePanel(view) {
  const { boot } = view;
  const node = el("aside", "trace-panel", null, { "aria-label": "Focused token" });
  const token = el("div", "panel-token");
  const path = pathMap(view);
  const address = `/data/trace/${boot.trace_id}`;
  const routing = blocksOf(view.host, `${address}/routing`, decodeRouting);

  function show() {
    const { pos } = view;
    if (!path.node.isConnected) node.replaceChildren(token, path.node);
    path.show();
    if (pos === null) {
      token.style.minHeight = "";
      return token.replaceChildren(hint());
    }
    const old = node.scrollTop;
    const map = mapInFocus();
    // While routing is on its way what stands below stays there: it would be drawn for nothing.
    const waits = boot.has_routing && !routing.find(pos);
    token.style.minHeight = waits ? `${token.offsetHeight}px` : "";
    token.replaceChildren(facts(view, pos));
    const step = stepCard(view, pos);
    if (step) add(token, step, saidOfStep(view, pos));
    if (boot.has_routing) section(routing, pos, drawRouting);
    else token.appendChild(missing("routing"));
    for (const blocks of view.statistics.values()) section(blocks, pos, drawHeads);
    if (!view.statistics.size) token.appendChild(missing("heads"));
    if (boot.heads) attention(pos);
    if (old) node.scrollTop = old; // at the top it stays there, and need not be laid out for it
    if (map) node.querySelector(map)?.focus({ preventScroll: true });
  }

  /**
   * Fetch what the panel of a token will show: before the focus gets there, as far as that is known.
   * @param {number} pos
   */
  function ask(pos) {
    const kept = [...(boot.has_routing ? [routing] : []), ...view.statistics.values()];
    for (const blocks of kept) blocks.load(pos).catch(() => {}); // who draws it says what failed
  }

  let resting = 0;
  /**
   * The same once the pointer or the text rests somewhere: a click may follow.
   * @param {(() => number) | null} where Tells it then; null where it is gone.
   */
  function askSoon(where) {
    clearTimeout(resting);
    if (where) resting = window.setTimeout(() => ask(where()), REST);
  }

  /** Bring the map of the path on screen, or the token again. */
  function turn() {
    const here = path.node.offsetTop - node.offsetTop;
    node.scrollTop = node.scrollTop < here / 2 ? here : 0;
  }

  /**
   * Draw at once what is here; fetch what is not, and draw it unless the focus has moved on.
   * @template B
   * @param {{find(pos: number): B | undefined, load(pos: number): Promise<B>}} blocks
   * @param {number} pos
   * @param {(box: HTMLElement, block: B, pos: number, view: View) => void} draw
   */
  function section(blocks, pos, draw) {
    const box = token.appendChild(el("div", "panel-section"));
    const block = blocks.find(pos);
    if (block) {
      draw(box, block, pos, view);
      return readAhead(blocks, pos);
    }
    box.classList.add("pending");
    blocks.load(pos).then(
      (fresh) => {
        if (view.pos !== pos || !document.contains(box)) return;
        box.classList.remove("pending");
        token.style.minHeight = "";
        draw(box, fresh, pos, view);
        readAhead(blocks, pos);
      },
      (error) => box.appendChild(el("p", "error", error.message)),
    );
  }

  /**
   * Fetch what keys lead to from here: tokens and steps beside.
   * @param {{load(pos: number): Promise<unknown>}} blocks
   * @param {number} pos
   */
  function readAhead(blocks, pos) {
    const { steps } = view;
    const beside = steps ? [stepBeside(steps, pos, 1), stepBeside(steps, pos, -1)] : [];
    for (const near of [pos - 8, pos + 8, ...beside]) {
      if (near !== null && near >= 0 && near < view.count) blocks.load(near).catch(() => {});
    }
  }

  /** @param {number} pos */
  function attention(pos) {
    const { head } = view;
    if (!head && !boot.attention_heads.length && !view.statistics.size) return;
    token.appendChild(headChoice(view)).classList.add("panel-section");
    if (!head) {
      if (view.statistics.size) token.appendChild(headHint());
      return;
    }
    const blocks = {
      find: (/** @type {number} */ at) => view.heads.find(head, at),
      load: (/** @type {number} */ at) => view.heads.load(head, at),
    };
    section(blocks, pos, drawSources);
  }

  /** Selector of the map of heads that has the keyboard: each drawing makes the maps anew. */
  function mapInFocus() {
    const column =
      document.activeElement instanceof HTMLCanvasElement &&
      node.contains(document.activeElement) &&
      document.activeElement.dataset.column;
    return column ? /** @type {"canvas"} */ (`canvas[data-column="${CSS.escape(column)}"]`) : null;
  }

  const enterMap = () => token.querySelector("canvas")?.focus();

  /** @param {string} table */
  function missing(table) {
    const said = `Run ${boot.run_id} did not record ${table}. Capture again with record= including "${table}".`;
    return add(el("div", "panel-section"), el("p", "dim", said));
  }

  return { node, ask, askSoon, show, enterMap, turn };
}

/** What to do while no token has the focus. */
function hint() {
  const list = el("dl");
  for (const [key, what] of KEYS) {
    const term = el("dt");
    for (const each of key.split(" "))
      term.appendChild(el(each === "–" ? "span" : "kbd", "", each));
    add(list, term, el("dd", "", what));
  }
  const text =
    "Click one in the text, or on the ribbon, to see which experts were chosen for it on every " +
    "layer, and what each head looked at.";
  return add(el("div", "panel-hint"), el("h2", "", "Choose a token"), el("p", "", text), list);
}

/**
 * The step that a token belongs to; null outside steps.
 * @param {View} view
 * @param {number} pos
 */
function stepCard(view, pos) {
  const { steps } = view;
  const i = stepAt(steps, pos);
  if (!steps || i < 0) return null;
  const swatch = el("i", "swatch");
  swatch.style.background = roleColour(steps.role[i]);
  const role = termed(el("b", "", roleName(steps.role[i])), "step role");
  const card = add(el("p", "step-card"), swatch, el("span", "dim", `step ${steps.step[i]}`), role);
  for (const [flag, word] of [
    [steps.backtrack[i], "goes back"],
    [steps.hypothesis[i], "proposes"],
  ]) {
    if (flag) card.appendChild(el("span", "tag", word));
  }
  const sure = steps.confidence[i];
  if (Number.isFinite(sure)) {
    card.appendChild(el("span", "dim step-sure", `confidence ${number(sure, 2)}`));
  }
  return card;
}

/**
 * What people said of the step that a token belongs to.
 * @param {View} view
 * @param {number} pos
 */
function saidOfStep({ steps, said }, pos) {
  const i = stepAt(steps, pos);
  const chips = steps && i >= 0 ? said.chipsOf(steps.first[i], steps.end[i]) : [];
  return chips.length ? add(el("div", "step-said-list"), ...chips) : null;
}

/**
 * The token, and how likely it was.
 * @param {View} view
 * @param {number} pos
 */
function facts(view, pos) {
  const { data, boot } = view;
  const phase = PHASES[data.phase[pos]];
  const title = add(
    el("div", "panel-title"),
    el("code", "token-glyph", visible(view.token(pos))),
    el("span", `phase-tag ${phase}`, phase),
    el("span", "dim", `#${pos} · id ${data.ids[pos]}`),
  );
  // The first token is not predicted; of another, a missing number was not recorded.
  const none = pos === 0 && boot.recorded.logprob ? "–" : "not recorded";
  /** @type {(name: string, value: number, text: string, unit: string) => HTMLElement} */
  const fact = (name, value, text, unit) => {
    const known = !Number.isNaN(value);
    const shown = add(el("b", "", known ? text : none), el("i", "", known ? unit : ""));
    return add(el("div", "fact"), termed(el("span", "dim", name), name), shown);
  };
  const [logprob, entropy] = [data.logprob[pos], data.entropy[pos]];
  const list = add(
    el("div", "facts"),
    fact("probability", logprob, percent(Math.exp(logprob)), ""),
    fact("logprob", logprob, number(logprob, 2), "nats"),
    fact("entropy", entropy, number(entropy, 2), "nats"),
  );
  return add(el("div", "panel-head", null, { "aria-live": "polite" }), title, list);
}
