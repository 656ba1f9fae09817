// The attention that each token receives from later ones, as a track.

import * as colours from "../shared/colours.js";
import { number, percent, plural, visible } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { fetched, QUIET, tall } from "./track.js";

/** @import { Track, View } from "./types.js" */

const HEIGHT = 30;

/**
 * @param {View} view
 * @returns {Track}
 */
export function receivedTrack(view) {
  const curve = tall(HEIGHT);
  const { state, load } = fetched(view, "received", (body) => {
    const values = decode(body.received, "f4");
    // The first token, where idle heads rest, would leave no room for the others.
    const sorted = values.slice(1).sort();
    const top = Math.max(0.5, sorted[Math.floor(0.995 * (sorted.length - 1))] || 0);
    return { values, top, heads: body.heads, held: body.held, made: body.made };
  });

  /** @type {Track["draw"]} */
  function draw(c, w) {
    if (!state.data) return;
    const { values, top } = state.data;
    const columns = Math.min(Math.floor(w), values.length);
    c.fillStyle = colours.line("attention");
    for (let column = 0; column < columns; column++) {
      const from = Math.floor((column / columns) * values.length);
      const to = Math.max(from + 1, Math.floor(((column + 1) / columns) * values.length));
      let most = 0;
      for (let i = from; i < to; i++) most = Math.max(most, values[i]);
      const high = Math.max(1, Math.min(1, most / top) * curve);
      const left = Math.round((column * w) / columns);
      const right = Math.round(((column + 1) * w) / columns);
      c.globalAlpha = most > top ? 1 : 0.75;
      c.fillRect(left, curve - high, right - left - (w / columns > 3 ? 1 : 0), high);
    }
    c.globalAlpha = 1;
  }

  return {
    name: "received",
    label: "Looked back at",
    term: "attention received",
    scale: () => state.data && { colours: [], text: `0 – ${number(state.data.top, 1)} × even` },
    height: () => (state.data ? curve : QUIET),
    lacks: () => state.lacks,
    failed: () => state.error,
    load,
    draw,
    hover(pos) {
      if (!state.data) return null;
      const known = `${plural(state.data.heads, "head")}, ${percent(state.data.held)} of attention recorded`;
      return [
        ["received", `${number(state.data.values[pos], 2)} × an even share`],
        ["", known],
      ];
    },
    target: (pos) => pos,
    behind() {
      const { data } = state;
      if (!data) return null;
      return {
        title: "Attention received",
        name: `trace-${view.boot.trace_id}-received`,
        about:
          "Attention weight that all later tokens pay to a token, summed; mean of the recorded " +
          `heads. 1 is an even share. The recorded positions hold ${percent(data.held)} of all.`,
        columns: ["token", "text", "received"],
        rows: () => Array.from(data.values, (value, i) => [i, visible(view.token(i)), value]),
        made: data.made,
        draw,
        size: [1200, curve],
      };
    },
  };
}
