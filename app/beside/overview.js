// Both thoughts at a glance: their steps as two ribbons, a band between partners, arcs from steps
// that go back.

import { contextOf } from "../shared/canvas.js";
import { heat } from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { roleColour, roleName } from "../shared/roles.js";
import { number } from "../shared/text.js";
import { isPair, stepOf } from "./alignment.js";

/** @import { Surface } from "../shared/surface.js" */
/** @import { Alignment, Row, Side } from "./types.js" */

const LARGE = 1200; // height of a screen from which all is drawn larger

const more = () => (window.innerHeight < LARGE ? 1 : 1.6);

/** Width of the names of the traces. */
const gutter = () => Math.round(64 * more());

/** Heights of arcs, ribbons and the bands between them. */
const sizes = () => {
  const [arcs, strip, between] = [20, 18, 64].map((size) => Math.round(size * more()));
  return { arcs, strip, between, all: 2 * (arcs + strip) + between };
};

/** @param {string} name */
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * @param {(row: number) => void} choose
 */
export function overview(choose) {
  const node = el("div", "beside-overview");
  const canvas = el("canvas", "", null, {
    role: "img",
    "aria-label": "The steps of both traces as ribbons, with a band between partners",
  });
  const tip = el("div", "tip ribbon-tip", null, { hidden: "" });
  add(node, canvas);
  /** @type {Alignment | null} */
  let shown = null;
  let focus = -1;
  /** @type {number[][]} Rows of the steps of each side. */
  let rowsOf = [];

  /** Tokens of the longer thought: both stand on one axis. */
  const longest = () =>
    Math.max(1, ...(shown?.sides || []).map(({ first, end }) => end[end.length - 1] - first[0]));

  /**
   * @param {Side} side
   * @param {number} w
   * @returns {(i: number) => [number, number]}
   */
  const spanIn = (side, w) => {
    const scale = (w - gutter()) / longest();
    return (i) => [
      gutter() + (side.first[i] - side.first[0]) * scale,
      gutter() + (side.end[i] - side.first[0]) * scale,
    ];
  };

  /** @type {(c: Surface, side: Side, w: number, top: number, here: number) => void} */
  function drawRibbon(c, side, w, top, here) {
    const { strip } = sizes();
    const span = spanIn(side, w);
    const size = Math.round(strip * 0.6);
    for (let i = 0; i < side.step.length; i++) {
      const [left, right] = span(i);
      const wide = Math.max(1, right - left - (right - left > 4 ? 1 : 0));
      c.fillStyle = roleColour(side.role[i]);
      c.fillRect(left, top, wide, strip);
      const name = roleName(side.role[i]);
      if (name.length * size * 0.65 < wide - 4) {
        c.font = `600 ${size}px sans-serif`;
        c.textAlign = "center";
        c.textBaseline = "middle";
        c.fillStyle = "#101216";
        c.fillText(name, left + wide / 2, top + strip / 2 + 0.5);
      }
      if (i !== here) continue;
      c.lineWidth = 2;
      c.strokeStyle = ink("--text");
      c.strokeRect(left + 1, top + 1, Math.max(2, wide - 2), strip - 2);
    }
  }

  /** Arcs away from the other ribbon: up for the first trace, down for the second. */
  /** @type {(c: Surface, side: Side, w: number, base: number, up: 1 | -1) => void} */
  function drawArcs(c, side, w, base, up) {
    const { arcs } = sizes();
    const span = spanIn(side, w);
    c.lineWidth = 1.3;
    c.strokeStyle = ink("--text-2");
    c.fillStyle = ink("--text-2");
    for (const arc of side.arcs) {
      const [from, to] = [span(arc.from)[0] + 1, span(arc.to)[0] + 1];
      const high = Math.min(2 * arcs - 6, 8 + (from - to) * 0.4);
      c.setLineDash(arc.named ? [] : [3, 2]);
      c.beginPath();
      c.moveTo(from, base);
      c.quadraticCurveTo((from + to) / 2, base - up * high, to, base);
      c.stroke();
      c.setLineDash([]);
      c.beginPath();
      c.moveTo(to - 3, base - up * 4);
      c.lineTo(to + 3, base - up * 4);
      c.lineTo(to, base);
      c.fill();
    }
  }

  /** @type {(c: Surface, w: number, top: number, bottom: number) => void} */
  function drawBands(c, w, top, bottom) {
    if (!shown) return;
    const spans = shown.sides.map((side) => spanIn(side, w));
    const scale = heat();
    shown.rows.forEach((row, at) => {
      if (!isPair(row)) return;
      const [[a, b], [x, y]] = [spans[0](row.places[0]), spans[1](row.places[1])];
      c.globalAlpha = focus < 0 || focus === at ? 0.9 : 0.4;
      c.fillStyle = colourOf(row, scale);
      c.beginPath();
      c.moveTo(a, top);
      c.lineTo(Math.max(a + 1, b - 1), top);
      c.lineTo(Math.max(x + 1, y - 1), bottom);
      c.lineTo(x, bottom);
      c.fill();
    });
    c.globalAlpha = 1;
    const row = shown.rows[focus];
    if (!row || !isPair(row)) return;
    c.lineWidth = 1.6;
    c.strokeStyle = ink("--text");
    for (const edge of [0, 1]) {
      c.beginPath();
      c.moveTo(spans[0](row.places[0])[edge], top);
      c.lineTo(spans[1](row.places[1])[edge], bottom);
      c.stroke();
    }
  }

  /** @type {(c: Surface, w: number) => void} */
  function draw(c, w) {
    if (!shown) return;
    const { arcs, strip, between } = sizes();
    const [first, second] = shown.sides;
    const [top, below] = [arcs, arcs + strip + between];
    const places = shown.rows[focus]?.places || [-1, -1];
    drawBands(c, w, top + strip + 2, below - 2);
    drawRibbon(c, first, w, top, places[0]);
    drawRibbon(c, second, w, below, places[1]);
    drawArcs(c, first, w, top - 1, 1);
    drawArcs(c, second, w, below + strip + 1, -1);
    c.font = `600 ${Math.round(strip * 0.62)}px sans-serif`;
    c.textAlign = "left";
    c.textBaseline = "middle";
    c.fillStyle = ink("--text-2");
    c.fillText(`trace ${first.trace_id}`, 0, top + strip / 2 + 0.5);
    c.fillText(`trace ${second.trace_id}`, 0, below + strip / 2 + 0.5);
  }

  function paint() {
    const w = node.clientWidth;
    if (!w || !shown) return;
    const c = contextOf(canvas, w, sizes().all);
    c.clearRect(0, 0, w, sizes().all);
    draw(c, w);
  }

  /**
   * The row of what is under the pointer: a step, or else a band; -1 if there is neither.
   * @param {MouseEvent} event
   */
  function rowAt(event) {
    if (!shown) return -1;
    const { arcs, strip, between } = sizes();
    const [x, y] = [event.offsetX, event.offsetY];
    const [top, below] = [arcs + strip, arcs + strip + between];
    if (y >= top && y < below) return bandAt(x, (y - top) / between);
    const side = y < top ? 0 : 1;
    const span = spanIn(shown.sides[side], node.clientWidth);
    const place = Array.from(shown.sides[side].step).findIndex((_, i) => {
      const [left, right] = span(i);
      return x >= left && x < right;
    });
    return place < 0 ? -1 : rowsOf[side][place];
  }

  /**
   * @param {number} x
   * @param {number} part How far down the band.
   */
  function bandAt(x, part) {
    if (!shown) return -1;
    const spans = shown.sides.map((side) => spanIn(side, node.clientWidth));
    return shown.rows.findIndex((row) => {
      if (!isPair(row)) return false;
      const [above, under] = row.places.map((place, side) => spans[side](place));
      const [left, right] = [0, 1].map((edge) => above[edge] * (1 - part) + under[edge] * part);
      return x >= left && x < right;
    });
  }

  canvas.addEventListener("click", (event) => {
    const row = rowAt(event);
    if (row >= 0) choose(row);
  });
  canvas.addEventListener("pointermove", (event) => {
    const row = rowAt(event);
    canvas.style.cursor = row >= 0 ? "pointer" : "default";
    tip.hidden = row < 0;
    if (row < 0 || !shown) return;
    if (!tip.isConnected) document.body.appendChild(tip);
    tip.replaceChildren(...saidOf(shown, row));
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 12))}px`;
    tip.style.top = `${canvas.getBoundingClientRect().bottom + 6}px`;
  });
  canvas.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  new ResizeObserver((_, observer) => {
    if (document.contains(node)) return paint();
    tip.remove();
    observer.disconnect();
  }).observe(node);

  /** @param {Alignment} found */
  function show(found) {
    shown = found;
    rowsOf = found.sides.map((side) => new Array(side.step.length).fill(-1));
    found.rows.forEach(({ places }, row) => {
      for (const side of [0, 1]) if (places[side] >= 0) rowsOf[side][places[side]] = row;
    });
    paint();
  }

  /** @param {number} row */
  function mark(row) {
    focus = row;
    paint();
  }
  return { node, show, mark, paint, draw, height: () => sizes().all };
}

/**
 * The colour of a pair: the brighter the nearer.
 * @param {Row} row
 * @param {string[]} scale
 */
export const colourOf = ({ distance }, scale) => {
  const near = 1 - Math.min(1, Math.max(0, distance));
  return scale[Math.min(scale.length - 1, Math.floor(near * scale.length))];
};

/**
 * @param {Alignment} found
 * @param {number} at
 */
function saidOf(found, at) {
  const row = found.rows[at];
  const names = found.sides.map(({ trace_id, role }, side) => {
    const step = stepOf(found, at, side ? 1 : 0);
    const said = step === null ? "no partner" : `step ${step}, ${roleName(role[row.places[side]])}`;
    return add(el("div", "tip-row"), el("span", "dim", `trace ${trace_id}`), el("b", "", said));
  });
  const far = isPair(row) ? number(row.distance, 2) : "–";
  const distance = add(
    el("div", "tip-row"),
    el("span", "dim", "routing distance"),
    el("b", "", far),
  );
  return [...names, distance];
}
