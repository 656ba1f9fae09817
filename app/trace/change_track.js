// How routing changes from window to window, layer by layer, as a track.

import * as colours from "../shared/colours.js";
import { number } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { above } from "./matches.js";
import { fetched, QUIET, tall } from "./track.js";

/** @import { Track, View } from "./types.js" */

const HEIGHT = 64; // of all layers
const ROW = 8; // of one, at most

/**
 * Layer × window: how far its experts are from those of the window before. What is no more than
 * chance has no colour.
 * @param {View} view
 * @returns {Track & {layerAt(y: number): number | null}}
 */
export function changeTrack(view) {
  const { state, load } = fetched(view, "change", (body) => {
    const values = decode(body.change, "f4");
    const chance = decode(body.chance, "f4");
    const start = decode(body.start, "u4");
    const beyond = values.map((value, i) => value - chance[i % start.length]);
    const known = beyond.filter(Number.isFinite).sort();
    const top = Math.max(0.05, known[Math.floor(0.99 * (known.length - 1))] || 0);
    /** @type {number[]} */
    const layers = body.layers;
    return { values, beyond, start, layers, chance, top, window: body.window, made: body.made };
  });
  const rows = () => Math.max(1, state.data?.layers.length || 0);
  const rowOf = () => Math.max(1, Math.min(tall(ROW), Math.floor(tall(HEIGHT) / rows())));

  /** Which layers, if not all. */
  const some = () =>
    state.data && state.data.layers.length < view.boot.sparse_layers.length
      ? `Layers ${state.data.layers.join(", ")}. `
      : "";

  /** @type {Track["draw"]} */
  function draw(c, w) {
    const { data } = state;
    if (!data) return;
    const scale = colours.heat();
    const row = rowOf();
    const cells = data.start.length;
    /** @param {number} pos */
    const x = (pos) => Math.round((Math.min(pos, view.count) / view.count) * w);
    for (let n = 0; n < data.layers.length; n++) {
      for (let i = 0; i < cells; i++) {
        const value = data.beyond[n * cells + i];
        if (!Number.isFinite(value)) continue; // the first window has none before it
        const at = Math.max(0, Math.min(1, value / data.top));
        c.fillStyle = scale[Math.round((scale.length - 1) * at)];
        const left = x(data.start[i]);
        const right = x(data.start[i] + data.window);
        c.fillRect(
          left,
          n * row,
          right - left - (right - left > 6 ? 1 : 0),
          row - (row > 3 ? 1 : 0),
        );
      }
    }
  }

  /** @param {number} y */
  const layerAt = (y) => state.data?.layers[Math.floor(y / rowOf())] ?? null;

  return {
    name: "change",
    label: "Routing change",
    term: "routing change",
    scale: () =>
      state.data && { colours: colours.heat(), text: `+${number(state.data.top, 2)} nats` },
    height: () => (state.data ? rows() * rowOf() : QUIET),
    lacks: () =>
      view.boot.has_routing ? state.lacks : { lacks: "Routing was not recorded.", command: "" },
    failed: () => state.error,
    load: view.boot.has_routing ? load : null,
    draw,
    hover(pos, y) {
      const { data } = state;
      if (!data) return null;
      const n = Math.max(0, Math.min(data.layers.length - 1, Math.floor(y / rowOf())));
      const i = above(data.start, pos) - 1;
      const value = data.values[n * data.start.length + i];
      const span = `L${data.layers[n]}, #${data.start[i]}–${Math.min(view.count, data.start[i] + data.window) - 1}`;
      return [
        [span, Number.isFinite(value) ? `${number(value, 3)} nats` : "first window"],
        ["by chance", `${number(data.chance[i], 3)} nats`],
      ];
    },
    target: (pos) => pos,
    layerAt,
    behind() {
      const { data } = state;
      if (!data) return null;
      const cells = data.start.length;
      return {
        title: "Routing change",
        name: `trace-${view.boot.trace_id}-routing-change`,
        about:
          `Jensen–Shannon divergence in nats between the experts of ${data.window} tokens and of ` +
          `the ${data.window} before, by layer; beside it what choices in random order give. ` +
          `${some()}What is no more has no colour; the full colour is ${number(data.top, 3)} more.`,
        columns: ["layer", "first token", "nats", "by chance"],
        rows: () =>
          Array.from(data.values, (value, i) => [
            data.layers[Math.floor(i / cells)],
            data.start[i % cells],
            value,
            data.chance[i % cells],
          ]),
        made: data.made,
        draw,
        size: [1200, rows() * rowOf()],
      };
    },
  };
}
