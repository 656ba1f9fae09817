// The chain of thought as text: one span a token, lines in blocks the browser skips off screen, and
// whose spans are made when they come near it.

import * as colours from "../shared/colours.js";
import { add, el, hit } from "../shared/dom.js";
import { numberOr, percent, visible as visibleText } from "../shared/text.js";
import { named, weightOf } from "./attention.js";
import { PHASE_HEADINGS } from "./constants.js";
import { markFound } from "./marks.js";
import { attends } from "./metrics.js";

/** @import { Paint, Text, View } from "./types.js" */

/**
 * The span of a token, which knows its place.
 * @typedef {HTMLSpanElement & {tokenIndex: number}} TokenSpan
 */

/**
 * Lines that the browser can skip together.
 * @typedef {object} Lines
 * @property {HTMLElement} node
 * @property {number} from First token.
 * @property {number} to Token after the last.
 * @property {number} line First line.
 * @property {number} lines How many.
 * @property {boolean} made Whether its spans are there.
 * @property {number} version Of the colours that it has.
 */

const BLOCK = 256; // tokens a block; it ends at the next line end
const LONGEST = 512; // a line longer than this is cut into several
const AT_ONCE = 4096; // tokens whose spans are made at the beginning

/**
 * @param {View} view
 * @returns {Text}
 */
export function traceText(view) {
  const node = el("div", "trace-text", null, {
    tabindex: "0",
    role: "region",
    "aria-label": "Tokens. Arrow keys move between tokens and lines.",
  });
  const tip = el("div", "tip", null, { hidden: "", role: "tooltip" });
  /** @type {TokenSpan[]} */
  const spans = [];
  const lineOf = new Uint32Array(view.count);
  /** @type {number[]} */
  const starts = []; // first token of each line
  /** @type {HTMLElement[]} */
  const means = []; // bar beside each line
  const numbers = new Uint32Array(view.count); // of each line in its phase
  /** @type {Lines[]} */
  const blocks = [];
  let lineMeans = new Float32Array(); // per line, from 0 to 1
  /** @type {TokenSpan | null} */
  let focused = null;
  /** @type {TokenSpan | null} */
  let pointed = null;

  // --- making the spans -------------------------------------------------------------------

  /** @param {number} i */
  function span(i) {
    const text = view.token(i);
    const bare = text.replace(/\n+$/, "");
    const breaks = text.length - bare.length;
    const item = /** @type {TokenSpan} */ (el("span", "t", bare));
    if (breaks) item.dataset.nl = "↵".repeat(Math.min(breaks, 3));
    if (text === "") item.classList.add("empty");
    if (/^<[^<>\s]{1,40}>$/.test(bare)) item.classList.add("special");
    item.tokenIndex = i;
    return item;
  }

  // Lines end after a token that ends in a newline, and where the phase changes.
  function cutLines() {
    const { phase } = view.data;
    for (let i = 0; i < view.count; i++) {
      const start = starts.length ? starts[starts.length - 1] : -1;
      const cut =
        i === 0 ||
        phase[i] !== phase[i - 1] ||
        view.token(i - 1).endsWith("\n") ||
        i - start >= LONGEST;
      if (cut) starts.push(i);
      lineOf[i] = starts.length - 1;
    }
  }

  /**
   * @param {number} phase
   * @param {number} line
   */
  function phaseHead(phase, line) {
    let to = line;
    while (to < starts.length && view.data.phase[starts[to]] === phase) to++;
    const tokens = (to < starts.length ? starts[to] : view.count) - starts[line];
    const head = el("h3", "phase-head", PHASE_HEADINGS[phase]);
    head.dataset.phase = String(phase);
    return add(head, el("span", "dim", `${tokens.toLocaleString("en")} tokens`));
  }

  /**
   * A block that begins with a line.
   * @param {number} line
   * @returns {Lines}
   */
  function blockFrom(line) {
    const from = starts[line];
    const block = {
      node: el("div", "block"),
      from,
      to: from,
      line,
      lines: 0,
      made: false,
      version: 0,
    };
    block.node.dataset.phase = String(view.data.phase[from]);
    blocks.push(block);
    return block;
  }

  /**
   * @param {number} line
   * @param {number} from
   * @param {number} to
   */
  function lineRow(line, from, to) {
    const row = el("div", "line");
    for (let i = from; i < to; i++) {
      spans[i] = span(i);
      row.appendChild(spans[i]);
    }
    row.dataset.n = String(numbers[line]);
    means[line] = el("i", "line-mean");
    return add(row, means[line]);
  }

  /** @param {Lines} block */
  function make(block) {
    if (block.made) return;
    block.made = true;
    for (let line = block.line; line < block.line + block.lines; line++) {
      block.node.appendChild(lineRow(line, starts[line], endOf(line)));
    }
    block.node.style.minHeight = "";
    if (view.ready) markSaid();
  }

  /** @param {number} line */
  const endOf = (line) => (line + 1 < starts.length ? starts[line + 1] : view.count);

  /** @param {number} i */
  function spanOf(i) {
    if (!spans[i]) make(blocks[blocks.findLastIndex(({ from }) => from <= i)]);
    return spans[i];
  }

  // The browser itself searches, selects and prints what is there.
  function makeAll() {
    for (const block of blocks) make(block);
    freshen();
  }

  function build() {
    cutLines();
    const all = document.createDocumentFragment();
    /** @type {Lines | null} */
    let block = null;
    let number = 0; // of the line in its phase
    for (let line = 0; line < starts.length; line++) {
      const from = starts[line];
      const phase = view.data.phase[from];
      const fresh = line === 0 || phase !== view.data.phase[from - 1];
      if (fresh) {
        all.appendChild(phaseHead(phase, line));
        number = 0;
      }
      if (fresh || !block || from - block.from >= BLOCK) {
        block = blockFrom(line);
        all.appendChild(block.node);
      }
      numbers[line] = ++number;
      block.to = endOf(line);
      block.lines++;
    }
    for (const each of blocks) {
      const height = Math.round(Math.max(each.lines * 25, (each.to - each.from) * 1.2));
      each.node.style.containIntrinsicSize = `auto ${height}px`;
      each.node.style.minHeight = `${height}px`;
      if (each.from < AT_ONCE) make(each);
    }
    node.appendChild(all);
    view.root.appendChild(tip);
  }

  // --- colouring --------------------------------------------------------------------------

  // Only blocks on and near the screen are coloured at once; the others when they come near. So
  // the time to recolour does not grow with the trace.
  const NEAR = 240;
  let version = 0;

  function recolor() {
    version++;
    if (view.paint) lineMeans = meansOfLines(view.paint);
    freshen();
  }

  function near() {
    const top = node.scrollTop - NEAR;
    const bottom = node.scrollTop + node.clientHeight + NEAR;
    return blocks.filter(({ node: { offsetTop, offsetHeight } }) => {
      return offsetTop < bottom && offsetTop + offsetHeight > top;
    });
  }

  function freshen() {
    const { paint } = view;
    const seen = near();
    for (const block of seen) make(block);
    if (paint) {
      for (const block of seen) if (block.version !== version) colorBlock(block, paint);
    }
    if (seen.length) markFound(view, spanOf, seen[0].from, seen[seen.length - 1].to);
  }

  /**
   * @param {Lines} block
   * @param {Paint} paint
   */
  function colorBlock(block, paint) {
    const { bins, palette } = paint;
    for (let i = block.from; i < block.to; i++) {
      spans[i].style.backgroundColor = palette[bins[i]] || "transparent";
    }
    const color = paint.kind === "ramp" ? colours.line(paint.of) : "transparent";
    for (let line = lineOf[block.from]; line <= lineOf[block.to - 1]; line++) {
      means[line].style.width = `${Math.round(56 * lineMeans[line])}px`;
      means[line].style.backgroundColor = color;
    }
    block.version = version;
  }

  /**
   * Beside each line: the mean of the metric over it, or its part of the attention, on the scale
   * of the largest.
   * @param {Paint} paint
   */
  function meansOfLines(paint) {
    if (paint.kind !== "ramp") return new Float32Array(starts.length);
    const { bins, values } = paint;
    const found = Float32Array.from(starts, (start, line) => {
      const to = line + 1 < starts.length ? starts[line + 1] : view.count;
      let [sum, known] = [0, 0];
      for (let i = start; i < to; i++) {
        if (Number.isNaN(values[i])) continue;
        sum += bins[i];
        known++;
      }
      return paint.of === "attention" ? sum : known && sum / known;
    });
    // A line's part of the attention is drawn against the heaviest token's, if no line has more.
    const least = paint.of === "attention" ? colours.BINS - 1 : 1e-6;
    const top = found.reduce((a, b) => Math.max(a, b), least);
    return found.map((mean) => mean / top);
  }

  /** @param {boolean} scroll */
  function focus(scroll) {
    if (focused) {
      focused.classList.remove("focused");
      focused.parentElement?.classList.remove("current");
    }
    focused = view.pos === null ? null : spanOf(view.pos);
    if (!focused) return;
    focused.classList.add("focused");
    focused.parentElement?.classList.add("current");
    if (scroll) reveal(focused, 3);
  }

  /**
   * @param {number | null} pos
   * @param {boolean} scroll
   */
  function point(pos, scroll) {
    pointed?.classList.remove("pointed");
    pointed = pos === null ? null : spanOf(pos);
    pointed?.classList.add("pointed");
    if (pointed && scroll) reveal(pointed, 3);
  }

  /**
   * Blocks that come on screen take their true height only then, so look again.
   * @param {HTMLElement} item
   * @param {number} looks
   */
  function reveal(item, looks) {
    const box = node.getBoundingClientRect();
    const at = item.getBoundingClientRect();
    if (at.top < box.top + 64 || at.bottom > box.bottom - 48) {
      node.scrollTop += at.top - box.top - box.height * 0.4;
      freshen();
      const again = () => (item === focused || item === pointed) && reveal(item, looks - 1);
      if (looks > 1) requestAnimationFrame(again);
    }
  }

  /** @type {TokenSpan[]} */
  let annotated = [];

  function markSaid() {
    for (const item of annotated) {
      item.classList.remove("annotated");
      delete item.dataset.said;
    }
    annotated = [];
    for (const { kind, pos, label, note, author, source } of view.said.rows()) {
      const item = spans[pos ?? -1];
      if (kind !== "step" || source !== "person" || !item) continue;
      item.classList.add("annotated");
      const words = `${label || note} (${author})`;
      item.dataset.said = item.dataset.said ? `${item.dataset.said} · ${words}` : words;
      annotated.push(item);
    }
  }

  /**
   * The first token of the line after or before; stays where there is none.
   * @param {number} by
   */
  function lineStep(by) {
    if (view.pos === null) return 0;
    const line = lineOf[view.pos] + by;
    return line < 0 || line >= starts.length ? view.pos : starts[line];
  }

  /**
   * First and last token on screen, interpolated inside blocks: cheap, and good to a line.
   * @returns {[number, number]}
   */
  function visible() {
    const top = node.scrollTop;
    const bottom = top + node.clientHeight;
    /** @param {number} y */
    const at = (y) => {
      let last = 0;
      for (const block of blocks) {
        const { offsetTop, offsetHeight } = block.node;
        if (y < offsetTop) break;
        const inside = Math.min(1, (y - offsetTop) / Math.max(1, offsetHeight));
        last = block.from + inside * (block.to - block.from);
      }
      return last;
    };
    return [at(top), at(bottom)];
  }

  // --- pointer ----------------------------------------------------------------------------

  /**
   * @param {string} name
   * @param {string} value
   */
  function row(name, value) {
    return add(el("div", "tip-row"), el("span", "dim", name), el("b", "", value));
  }

  /** @param {TokenSpan} item */
  function showTip(item) {
    const i = item.tokenIndex;
    const { data } = view;
    const head = el("div", "tip-head");
    add(head, el("code", "", visibleText(view.token(i))), el("span", "dim", `#${i}`));
    tip.replaceChildren(head);
    // Nothing stands before the first token.
    if (i > 0 || Number.isFinite(data.logprob[i])) {
      const known = !Number.isNaN(data.logprob[i]);
      const probability = known ? percent(Math.exp(data.logprob[i])) : "not recorded";
      const entropy = numberOr(data.entropy[i], 2, " nats");
      add(tip, row("probability", probability), row("entropy", entropy));
    }
    if (data.margin) tip.appendChild(row("margin", numberOr(data.margin[i], 3)));
    if (attends(view) && view.head) tip.appendChild(row(named(view.head), weightOf(view, i)));
    else if (view.metric === "expert" && view.layer !== null) tipOfLayer(i, view.layer);
    if (item.dataset.said) tip.appendChild(row("annotated", item.dataset.said));
    place(item);
  }

  /**
   * @param {number} i
   * @param {number} layer
   */
  function tipOfLayer(i, layer) {
    const found = view.layers.get(layer);
    if (!found) return;
    const known = found.expert[i] < view.boot.experts;
    const share = `E${found.expert[i]} · weight share ${percent(found.share[i])}`;
    tip.appendChild(row(`layer ${layer}`, known ? share : "not recorded"));
  }

  /** @param {HTMLElement} item */
  function place(item) {
    tip.hidden = false;
    const at = item.getClientRects()[0] || item.getBoundingClientRect();
    const left = Math.min(at.left, window.innerWidth - tip.offsetWidth - 12);
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 60 ? above : at.bottom + 8}px`;
  }

  /** @param {Event} event */
  const tokenAt = (event) => /** @type {TokenSpan | null} */ (hit(event, ".t"));
  node.addEventListener("pointerover", (event) => {
    const item = tokenAt(event);
    if (item) showTip(item);
    else tip.hidden = true;
  });
  node.addEventListener("pointerleave", () => (tip.hidden = true));
  node.addEventListener("click", (event) => {
    const item = tokenAt(event);
    if (item && window.getSelection()?.isCollapsed) view.setPos(item.tokenIndex, false);
  });
  node.addEventListener(
    "scroll",
    () => {
      tip.hidden = true;
      freshen();
      view.ribbon.frame();
      view.panel.askSoon(() => {
        const [first, last] = visible();
        return Math.floor((first + last) / 2);
      });
    },
    { passive: true },
  );

  return {
    node,
    build,
    makeAll,
    recolor,
    focus,
    point,
    markFound: freshen,
    markSaid,
    lineStep,
    visible,
  };
}
