// How far the routing of each layer moves, beside what chance gives.

import { contextOf } from "../shared/canvas.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { number } from "../shared/text.js";
import { ink } from "../shared/theme.js";

/** @import { Surface } from "../shared/surface.js" */
/** @import { ShiftRow } from "./types.js" */

const HEIGHT = 0.16; // of the window's
const [LEFT, RIGHT, ABOVE, BELOW] = [44, 10, 8, 18];

export function shiftChart() {
  const node = el("div", "shift-chart");
  const label = "Divergence of routing by layer, and by chance";
  const canvas = el("canvas", "", null, { role: "img", "aria-label": label });
  const said = el("p", "dim shift-said");
  add(node, canvas, said);
  const high = Math.round(HEIGHT * window.innerHeight);
  /** @type {ShiftRow[]} */
  let rows = [];

  const top = () =>
    Math.max(0.001, ...rows.flatMap((row) => [row.high ?? 0, row.divergence ?? 0, row.null ?? 0]));

  /** @type {(c: Surface, w: number, h: number) => void} */
  function draw(c, w, h) {
    if (!rows.length) return;
    const most = top();
    const step = (w - LEFT - RIGHT) / rows.length;
    /** @param {number} i */
    const x = (i) => LEFT + (i + 0.5) * step;
    /** @param {number} value */
    const y = (value) => h - BELOW - (value / most) * (h - ABOVE - BELOW);
    c.font = "10px sans-serif";
    c.textBaseline = "middle";
    c.fillStyle = ink("--text-3");
    c.strokeStyle = ink("--line");
    c.lineWidth = 1;
    for (const value of [0, most / 2, most]) {
      c.beginPath();
      c.moveTo(LEFT, y(value));
      c.lineTo(w - RIGHT, y(value));
      c.stroke();
      c.textAlign = "right";
      c.fillText(number(value, most < 0.1 ? 3 : 2), LEFT - 6, y(value));
    }
    const wide = Math.max(2, Math.min(26, step * 0.6));
    const every = Math.ceil(24 / step);
    rows.forEach((row, i) => {
      if (row.divergence === null) return;
      c.fillStyle = colours.line("attention");
      c.fillRect(x(i) - wide / 2, y(row.divergence), wide, y(0) - y(row.divergence));
      if (row.low !== null && row.high !== null) {
        c.strokeStyle = ink("--text");
        c.beginPath();
        c.moveTo(x(i), y(row.low));
        c.lineTo(x(i), y(row.high));
        c.stroke();
      }
      if (row.null !== null) {
        c.fillStyle = colours.line("entropy");
        c.fillRect(x(i) - wide / 2 - 2, y(row.null) - 1, wide + 4, 2.5);
      }
      c.fillStyle = ink("--text-3");
      c.textAlign = "center";
      if (i % every === 0) c.fillText(`L${row.layer}`, x(i), h - 8);
    });
  }

  function paint() {
    const w = node.clientWidth;
    if (!w) return;
    const c = contextOf(canvas, w, high);
    c.clearRect(0, 0, w, high);
    draw(c, w, high);
  }

  const plain = "bars: divergence in nats, with its 95% interval over traces · orange: by chance";
  canvas.addEventListener("pointermove", (event) => {
    const step = (node.clientWidth - LEFT - RIGHT) / Math.max(1, rows.length);
    const row = rows[Math.floor((event.offsetX - LEFT) / step)];
    if (!row || row.divergence === null) said.textContent = plain;
    else
      said.textContent =
        `L${row.layer}: ${number(row.divergence, 4)} nats (${number(row.low ?? 0, 4)} to ` +
        `${number(row.high ?? 0, 4)}), by chance ${number(row.null ?? 0, 4)}, p = ${number(row.p, 3)}`;
  });
  canvas.addEventListener("pointerleave", () => {
    said.textContent = plain;
  });
  new ResizeObserver((_, observer) => {
    if (!document.contains(node)) return observer.disconnect();
    paint();
  }).observe(node);

  /** @param {ShiftRow[]} next */
  function show(next) {
    rows = next;
    said.textContent = plain;
    paint();
  }
  return { node, show, draw };
}
