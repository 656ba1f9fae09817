// The heaviest expert of every layer along the trace, as a track.

import * as colours from "../shared/colours.js";
import { el } from "../shared/dom.js";
import { number } from "../shared/text.js";
import { theme } from "../shared/theme.js";
import { decode } from "../shared/typed_arrays.js";
import { attends } from "./metrics.js";
import { snap } from "./profile_track.js";
import { fetched, QUIET, tall } from "./track.js";

/** @import { Track, View } from "./types.js" */

const HEIGHT = 84; // of all layers
const ROW = 8; // of one, at most
const IMAGE = 8192; // cells from which they are drawn as an image

/**
 * Cells as an image, a pixel each; what was not recorded stays clear.
 * @param {Uint16Array} expert
 * @param {number} columns
 * @param {string[]} fills
 */
function imageOf(expert, columns, fills) {
  const cells = el("canvas");
  [cells.width, cells.height] = [columns, expert.length / columns];
  const palette = el("canvas");
  [palette.width, palette.height] = [fills.length, 1];
  const [c, p] = [cells.getContext("2d"), palette.getContext("2d")];
  if (!c || !p) throw new Error("this browser gives no canvas to draw on");
  fills.forEach((fill, e) => {
    p.fillStyle = fill;
    p.fillRect(e, 0, 1, 1);
  });
  const rgba = new Uint32Array(p.getImageData(0, 0, fills.length, 1).data.buffer);
  const pixels = c.createImageData(cells.width, cells.height);
  new Uint32Array(pixels.data.buffer).set(Uint32Array.from(expert, (e) => rgba[e] ?? 0));
  c.putImageData(pixels, 0, 0);
  return cells;
}

/**
 * @param {View} view
 * @returns {Track & {layerAt(y: number): number | null}}
 */
export function expertTrack(view) {
  const { boot } = view;
  const { state, load } = fetched(view, "experts", (body) => ({
    stride: /** @type {number} */ (body.stride),
    expert: decode(body.expert, "u2"),
  }));
  const layers = boot.sparse_layers;
  /** @type {{key: string, cells: HTMLCanvasElement} | null} */
  let image = null;
  const row = Math.max(
    1,
    Math.min(tall(ROW), Math.floor(tall(HEIGHT) / Math.max(1, layers.length))),
  );
  const known = boot.has_routing && boot.has_weights;

  /** @type {Track["draw"]} */
  function draw(c, w) {
    const { data } = state;
    if (!data) return;
    const loud = view.metric === "expert" && !attends(view);
    const columns = data.expert.length / layers.length;
    const step = (w * data.stride) / view.count;
    const gap = row > 3 ? 1 : 0;
    const fills = Array.from({ length: boot.experts }, (_, e) =>
      view.only !== null && view.only !== e
        ? "transparent"
        : loud
          ? colours.expertLine(e, boot)
          : colours.expertFill(e, boot),
    );
    if ("drawImage" in c && data.expert.length >= IMAGE) {
      const context = /** @type {CanvasRenderingContext2D} */ (c);
      const key = [loud, view.only, theme()].join();
      if (image?.key !== key) image = { key, cells: imageOf(data.expert, columns, fills) };
      context.imageSmoothingEnabled = false;
      context.drawImage(image.cells, 0, 0, columns * step, layers.length * row);
      return;
    }
    for (let s = 0; s < layers.length; s++) {
      for (let column = 0; column < columns; column++) {
        const fill = fills[data.expert[s * columns + column]];
        if (!fill) continue; // not recorded: a gap
        const left = snap(column * step);
        c.fillStyle = fill;
        c.fillRect(left, s * row, snap((column + 1) * step) - left, row - gap);
      }
    }
  }

  /** @param {number} y */
  const at = (y) => Math.max(0, Math.min(layers.length - 1, Math.floor(y / row)));
  /** @type {(s: number, pos: number) => number | null} */
  const expertAt = (s, pos) => {
    if (!state.data) return null;
    const columns = state.data.expert.length / layers.length;
    const found = state.data.expert[s * columns + Math.floor(pos / state.data.stride)];
    return found < boot.experts ? found : null;
  };

  return {
    name: "expert",
    label: "Heaviest expert",
    term: "heaviest expert",
    scale: () => ({ colours: [], text: "hue: group" }),
    height: () => (state.data ? layers.length * row : QUIET),
    lacks: () =>
      known
        ? state.lacks
        : {
            lacks: boot.has_routing
              ? "An imported run does not tell the weights."
              : "Routing was not recorded.",
            command: "",
          },
    failed: () => state.error,
    load: known ? load : null,
    draw,
    hover(pos, y) {
      const found = expertAt(at(y), pos);
      return [[`L${layers[at(y)]}, #${pos}`, found === null ? "not recorded" : `E${found}`]];
    },
    target: (pos) => pos,
    layerAt: (y) => (state.data ? layers[at(y)] : null),
    behind() {
      const { data } = state;
      if (!data) return null;
      const columns = data.expert.length / layers.length;
      const every = data.stride > 1 ? ` Every ${number(data.stride, 0)}th token.` : "";
      return {
        title: "Heaviest expert of each layer",
        name: `trace-${boot.trace_id}-experts`,
        about: `The chosen expert with the largest weight, by layer and token.${every}`,
        columns: ["layer", "token", "expert"],
        rows: () =>
          Array.from(data.expert, (_, i) => {
            const pos = (i % columns) * data.stride;
            return [layers[Math.floor(i / columns)], pos, expertAt(Math.floor(i / columns), pos)];
          }),
        made: boot.made.map || null,
        draw,
        size: [1200, layers.length * row],
      };
    },
  };
}
