// What the text is coloured by, as a track: a profile of the metric, above a band of the phases.

import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { el } from "../shared/dom.js";
import { number, visible } from "../shared/text.js";
import { above } from "./matches.js";
import { attends, METRICS } from "./metrics.js";
import { tall } from "./track.js";

/** @import { Made } from "../shared/behind.js" */
/** @import { Surface } from "../shared/surface.js" */
/** @import { Bands, Ramp, Track, View } from "./types.js" */

const HEIGHT = 38; // of the profile
const BAND = 3; // height of the phase band

/** @type {Record<string, string>} */
const NAMES = { entropy: "Entropy", logprob: "Surprise", margin: "Contested", phase: "Phase" };

// To whole device pixels: edges between would blend and show as stripes.
/** @param {number} left */
export const snap = (left) => {
  const ratio = window.devicePixelRatio || 1;
  return Math.round(left * ratio) / ratio;
};

/**
 * A column of several tokens shows their largest value pale, so that no fork is averaged away,
 * and their mean on top of it.
 * @param {Surface} c
 * @param {number} w
 * @param {Ramp} paint
 * @param {number} count
 */
function drawRamp(c, w, paint, count) {
  const high = tall(HEIGHT);
  c.fillStyle = colours.line(paint.of);
  const columns = Math.min(Math.floor(w), count);
  const step = w / columns;
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column / columns) * count);
    const to = Math.max(from + 1, Math.floor(((column + 1) / columns) * count));
    let [most, sum, known] = [0, 0, 0];
    for (let i = from; i < to; i++) {
      if (Number.isNaN(paint.values[i])) continue;
      most = Math.max(most, paint.bins[i]);
      sum += paint.bins[i];
      known++;
    }
    if (!known) continue; // a gap, not a zero
    /** @type {(bin: number, alpha: number) => void} */
    const bar = (bin, alpha) => {
      const height = Math.max(1, (bin / (colours.BINS - 1)) * high);
      c.globalAlpha = bin ? alpha : 0.25;
      const left = snap(column * step);
      const right = snap((column + 1) * step);
      c.fillRect(left, high - height, right - left - (step > 3 ? 1 : 0), height);
    };
    if (to - from > 1) bar(most, to - from > 3 ? 0.25 : 0.5);
    bar(sum / known, 0.9);
  }
  c.globalAlpha = 1;
}

/**
 * @param {Surface} c
 * @param {number} w
 * @param {Bands} paint
 * @param {View} view
 */
function drawBands(c, w, paint, view) {
  const { boot, count } = view;
  /** @type {Map<number, string>} */
  const lines = new Map();
  /** @param {number} bin */
  const lineOf = (bin) => {
    const known = lines.get(bin);
    if (known) return known;
    const made = paint.kind === "expert" ? colours.expertLine(bin, boot) : colours.phaseLine(bin);
    lines.set(bin, made);
    return made;
  };
  // Of several tokens in one column the last would hide the others: the first is drawn alone.
  const columns = Math.min(Math.round(w * (window.devicePixelRatio || 1)), count);
  for (let column = 0; column < columns; column++) {
    const bin = paint.bins[Math.floor((column / columns) * count)];
    const colour = paint.palette[bin];
    if (!colour || colour === "transparent") continue; // no expert is known, or it is not meant
    c.fillStyle = lineOf(bin);
    const left = snap((column / columns) * w);
    c.fillRect(left, 0, snap(((column + 1) / columns) * w) - left, tall(HEIGHT));
  }
}

/**
 * @param {View} view
 * @returns {Track}
 */
export function profileTrack(view) {
  /** @type {Track["draw"]} */
  function draw(c, w) {
    const { paint, data } = view;
    /** @param {number} pos */
    const x = (pos) => (pos / view.count) * w;
    if (paint?.kind === "ramp") drawRamp(c, w, paint, view.count);
    else if (paint) drawBands(c, w, paint, view);
    for (let i = 0; i < view.count; i++) {
      let to = i;
      while (to + 1 < view.count && data.phase[to + 1] === data.phase[i]) to++;
      c.fillStyle = colours.phaseLine(data.phase[i]);
      c.fillRect(x(i), tall(HEIGHT) + 2, Math.max(1, x(to + 1) - x(i) - 1), BAND);
      i = to;
    }
    drawFound(c, w);
  }

  /**
   * Where the text that is looked for stands; places in one pixel are one stroke.
   * @param {Surface} c
   * @param {number} w
   */
  function drawFound(c, w) {
    const { ends } = view.data;
    let last = -1;
    c.fillStyle = colours.found();
    for (const start of view.found.starts) {
      const left = Math.round((above(ends, start) / view.count) * w);
      if (left !== last) c.fillRect(left, 0, 2, 5);
      last = left;
    }
  }

  const name = () => {
    const { head } = view;
    if (attends(view) && head) return `L${head.layer} head ${head.head}`;
    return view.metric === "expert" ? `Expert, L${view.layer}` : NAMES[view.metric];
  };
  const metric = () => METRICS.find((each) => each.id === view.metric) || METRICS[0];

  return {
    name: "profile",
    get label() {
      return name();
    },
    get term() {
      return attends(view) ? "" : metric().term;
    },
    scale: () => null,
    height: () => tall(HEIGHT) + BAND + 2,
    lacks: () => null,
    failed: () => null,
    load: null,
    draw,
    hover(pos) {
      const { paint, data } = view;
      const value = paint?.kind === "ramp" ? paint.values[pos] : Number.NaN;
      const unit = metric().unit && ` ${metric().unit}`;
      const known = Number.isNaN(value) ? PHASES[data.phase[pos]] : number(value, 3) + unit;
      return [
        [`#${pos}`, visible(view.token(pos))],
        [name().toLowerCase(), known],
      ];
    },
    target: (pos) => pos,
    behind() {
      const { paint, data, boot } = view;
      if (!paint) return null;
      const column = attends(view) ? "weight" : view.metric;
      /** @param {number} i */
      const value = (i) => (paint.kind === "ramp" ? paint.values[i] : paint.bins[i]);
      return {
        title: `${name()} along the trace`,
        name: `trace-${boot.trace_id}-${column}`,
        about: metric().says,
        columns: ["token", "text", "phase", column],
        rows: () =>
          Array.from({ length: view.count }, (_, i) => [
            i,
            visible(view.token(i)),
            PHASES[data.phase[i]],
            value(i),
          ]),
        made: attends(view) ? null : madeOf(view),
        draw,
        size: [1200, tall(HEIGHT) + BAND + 2],
      };
    },
  };
}

/**
 * @param {View} view
 * @returns {Made | null}
 */
const madeOf = ({ metric, boot, layers, layer }) =>
  (metric === "expert" ? layer !== null && layers.get(layer)?.made : boot.made[metric]) || null;

/** A canvas that a test and a reader of the page find by its name. */
export const canvasOf = (/** @type {string} */ name) =>
  el("canvas", name === "profile" ? "profile" : `${name}-track`, null, { "aria-hidden": "true" });
