// Belief as a track: how probable the answer in the end was after each step.

import * as colours from "../shared/colours.js";
import { percent, visible } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { above } from "./matches.js";
import { fetched, ink, QUIET, tall } from "./track.js";

/** @import { Track, View } from "./types.js" */

const HEIGHT = 30;

/**
 * @param {View} view
 * @returns {Track}
 */
export function beliefTrack(view) {
  const curve = tall(HEIGHT);
  const { state, load } = fetched(view, "belief", (body) => ({
    step: /** @type {number[]} */ (body.step),
    pos: decode(body.pos, "u4"),
    probability: decode(body.probability, "f4"),
    top: /** @type {string[]} */ (body.top),
    made: body.made,
  }));

  /** @param {number} pos */
  const placeAt = (pos) => (state.data ? above(state.data.pos, pos) - 1 : -1);

  /** @type {Track["draw"]} */
  function draw(c, w) {
    if (!state.data) return;
    const { pos, probability } = state.data;
    const colour = colours.line("attention");
    c.strokeStyle = ink("--line-2");
    c.lineWidth = 1;
    c.setLineDash([2, 3]);
    c.beginPath();
    c.moveTo(0, curve / 2);
    c.lineTo(w, curve / 2);
    c.stroke();
    c.setLineDash([]);
    for (let i = 0; i < pos.length; i++) {
      if (Number.isNaN(probability[i])) continue;
      const left = ((pos[i] + 1) / view.count) * w;
      const right = (((i + 1 < pos.length ? pos[i + 1] : view.count - 1) + 1) / view.count) * w;
      const high = Math.max(1, probability[i] * (curve - 2));
      c.fillStyle = colour;
      c.globalAlpha = 0.35;
      c.fillRect(left, curve - high, right - left, high);
      c.globalAlpha = 1;
      c.fillRect(left, curve - high, Math.max(1, right - left), 2);
    }
  }

  return {
    name: "belief",
    label: "Belief",
    term: "belief",
    scale: () => ({ colours: [], text: "0 – 100%" }),
    height: () => (state.data ? curve : QUIET),
    lacks: () => state.lacks,
    failed: () => state.error,
    load,
    draw,
    hover(pos) {
      const i = placeAt(pos);
      if (!state.data || i < 0) return null;
      return [
        ["final answer", percent(state.data.probability[i])],
        ["likeliest", visible(state.data.top[i]).slice(0, 40)],
      ];
    },
    target: (pos) => pos,
    behind() {
      const { data } = state;
      if (!data) return null;
      return {
        title: "Belief in the final answer",
        name: `trace-${view.boot.trace_id}-belief`,
        about: "Probability of the answer it gave in the end, if asked right after each step.",
        columns: ["step", "token", "probability", "likeliest answer"],
        rows: () =>
          Array.from(data.step, (step, i) => [step, data.pos[i], data.probability[i], data.top[i]]),
        made: data.made,
        draw,
        size: [1200, curve],
      };
    },
  };
}
