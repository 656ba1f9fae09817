// The steps of the thought as a track: their roles, and arcs from those that go back.

import { roleColour, roleName } from "../shared/roles.js";
import { stepAt } from "./steps.js";
import { ink, QUIET, tall } from "./track.js";

/** @import { Behind } from "../shared/behind.js" */
/** @import { Surface } from "../shared/surface.js" */
/** @import { Track, View } from "./types.js" */

const ARCS = 18; // height of the arcs
const STRIP = 15; // of the roles
const LETTER = 6.2; // width of a letter in it
const LONGEST = 60; // letters of a step in its hover

/**
 * @param {View} view
 * @returns {Track}
 */
export function stepsTrack(view) {
  const { steps } = view;
  const [arcs, strip] = [tall(ARCS), tall(STRIP)];
  /** @type {(i: number) => string} */
  const textOf = (i) => {
    if (!steps) return "";
    const { ends } = view.data;
    const start = steps.first[i] ? ends[steps.first[i] - 1] : 0;
    return view.data.text
      .slice(start, ends[steps.end[i] - 1])
      .trim()
      .replace(/\s+/g, " ");
  };

  /**
   * The role's name on its step, if it fits.
   * @param {Surface} c
   * @param {string} text
   * @param {number} left
   * @param {number} width
   */
  function name(c, text, left, width) {
    const size = Math.round(strip * 0.63);
    if (text.length * LETTER * (size / 9.5) > width - 4) return;
    c.font = `600 ${size}px sans-serif`;
    c.fillStyle = "#101216";
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.fillText(text, left + width / 2, arcs + 1.5 + strip / 2);
  }

  /**
   * A frame around the step in focus.
   * @param {Surface} c
   * @param {number} left
   * @param {number} right
   */
  function frame(c, left, right) {
    c.lineWidth = 2;
    c.strokeStyle = ink("--text");
    c.strokeRect(left + 1, arcs + 2, Math.max(2, right - left - 3), strip - 2);
  }

  /** @type {Track["draw"]} */
  function draw(c, w) {
    if (!steps) return;
    /** @param {number} pos */
    const x = (pos) => (pos / view.count) * w;
    const here = stepAt(steps, view.pos);
    for (let i = 0; i < steps.first.length; i++) {
      const [left, right] = [x(steps.first[i]), x(steps.end[i])];
      const gap = right - left > 4 ? 1 : 0;
      c.fillStyle = roleColour(steps.role[i]);
      c.fillRect(left, arcs + 1, Math.max(1, right - left - gap), strip);
      name(c, roleName(steps.role[i]), left, right - left - gap);
    }
    if (here >= 0) frame(c, x(steps.first[here]), x(steps.end[here]));
    c.lineWidth = 1.4;
    for (const arc of steps.arcs) {
      const [from, to] = [x(steps.first[arc.from]) + 1, x(steps.first[arc.to]) + 1];
      const near = here === arc.from || here === arc.to;
      c.strokeStyle = near ? ink("--text") : ink("--text-2");
      c.globalAlpha = near || here < 0 ? 1 : 0.55;
      c.setLineDash(arc.named ? [] : [3, 2]);
      c.beginPath();
      c.moveTo(from, arcs);
      const high = Math.max(2, arcs - 4 - Math.min(2 * arcs, (from - to) * 0.5));
      c.quadraticCurveTo((from + to) / 2, Math.min(2, high) - arcs + 4, to, arcs);
      c.stroke();
      c.setLineDash([]);
      c.fillStyle = c.strokeStyle;
      c.beginPath();
      c.moveTo(to - 3, arcs - 4);
      c.lineTo(to + 3, arcs - 4);
      c.lineTo(to, arcs);
      c.fill();
    }
    c.globalAlpha = 1;
  }

  /** @returns {Behind | null} */
  function behind() {
    if (!steps) return null;
    /** @param {number} i */
    const row = (i) => [
      steps.step[i],
      steps.first[i],
      steps.end[i],
      roleName(steps.role[i]),
      Boolean(steps.backtrack[i]),
      Boolean(steps.hypothesis[i]),
      steps.confidence[i],
      textOf(i),
    ];
    const source = steps.source.length ? ` Labels: ${steps.source.join(", ")}.` : "";
    return {
      title: "Steps of the thought",
      name: `trace-${view.boot.trace_id}-steps`,
      about: `What each step does, and which go back. Spans in tokens.${source}`,
      columns: [
        "step",
        "first token",
        "end",
        "role",
        "goes back",
        "proposes",
        "confidence",
        "text",
      ],
      rows: () => Array.from(steps.step, (_, i) => row(i)),
      made: steps.made,
      draw,
      size: [1200, arcs + strip + 2],
    };
  }

  return {
    name: "steps",
    label: "Steps",
    term: "step role",
    scale: () => null,
    height: () => (steps ? arcs + strip + 2 : QUIET),
    lacks: () => view.noSteps,
    failed: () => null,
    load: null,
    draw,
    hover(pos) {
      const i = stepAt(steps, pos);
      if (!steps || i < 0) return null;
      const text = textOf(i);
      const marks = `${steps.backtrack[i] ? ", goes back" : ""}${steps.hypothesis[i] ? ", proposes" : ""}`;
      return [
        [`step ${steps.step[i]}`, `${roleName(steps.role[i])}${marks}`],
        ["", text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text],
      ];
    },
    target(pos) {
      const i = stepAt(steps, pos);
      return steps && i >= 0 ? steps.first[i] : pos;
    },
    behind,
  };
}
