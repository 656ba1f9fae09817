// The panel of the focused token: what is known of it, its routing, its heads.

import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { number, percent, visible } from "../shared/text.js";
import { drawSources, headChoice, headHint } from "./attention.js";
import { blocksOf } from "./blocks.js";
import { drawHeads } from "./heads.js";
import { decodeRouting, drawRouting } from "./routing.js";

/** @import { Panel, View } from "./types.js" */

const KEYS = [
  ["← →", "token"],
  ["j k", "line"],
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
  const address = `/data/trace/${boot.trace_id}`;
  const routing = blocksOf(`${address}/routing`, decodeRouting);

  function show() {
    const { pos } = view;
    if (pos === null) return node.replaceChildren(hint());
    const old = node.scrollTop;
    const map = mapInFocus();
    node.replaceChildren(facts(view, pos));
    if (boot.has_routing) section(routing, pos, drawRouting);
    else node.appendChild(missing("routing"));
    for (const blocks of view.statistics.values()) section(blocks, pos, drawHeads);
    if (!view.statistics.size) node.appendChild(missing("heads"));
    if (boot.heads) attention(pos);
    node.scrollTop = old;
    if (map) node.querySelector(map)?.focus({ preventScroll: true });
  }

  /**
   * Draw at once what is here; fetch what is not, and draw it unless the focus has moved on.
   * @template B
   * @param {{find(pos: number): B | undefined, load(pos: number): Promise<B>}} blocks
   * @param {number} pos
   * @param {(box: HTMLElement, block: B, pos: number, view: View) => void} draw
   */
  function section(blocks, pos, draw) {
    const box = node.appendChild(el("div", "panel-section"));
    const block = blocks.find(pos);
    if (block) {
      draw(box, block, pos, view);
      for (const near of [pos - 8, pos + 8]) {
        if (near >= 0 && near < view.count) blocks.load(near).catch(() => {});
      }
      return;
    }
    box.classList.add("pending");
    blocks.load(pos).then(
      (fresh) => {
        if (view.pos !== pos || !document.contains(box)) return;
        box.classList.remove("pending");
        draw(box, fresh, pos, view);
      },
      (error) => box.appendChild(el("p", "error", error.message)),
    );
  }

  /** @param {number} pos */
  function attention(pos) {
    const { head } = view;
    if (!head && !boot.attention_heads.length && !view.statistics.size) return;
    node.appendChild(headChoice(view)).classList.add("panel-section");
    if (!head) {
      if (view.statistics.size) node.appendChild(headHint());
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

  const enterMap = () => node.querySelector("canvas")?.focus();

  /** @param {string} table */
  function missing(table) {
    const said = `Run ${boot.run_id} did not record ${table}. Capture again with record= including "${table}".`;
    return add(el("div", "panel-section"), el("p", "dim", said));
  }

  return { node, show, enterMap };
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
