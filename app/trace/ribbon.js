// The whole trace on one axis: the metric as a profile, the heaviest expert of every layer below.

import { contextOf } from "../shared/canvas.js";
import * as colours from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { fetchJson } from "../shared/host.js";
import { theme } from "../shared/theme.js";
import { decode } from "../shared/typed_arrays.js";
import { above } from "./matches.js";
import { attends } from "./metrics.js";

/** @import { Bands, Ramp, Ribbon, View } from "./types.js" */

const PROFILE = 38; // height of the profile
const BAND = 3; // height of the phase band
const MAP = 84; // most height of the expert map

/**
 * @param {View} view
 * @returns {Ribbon}
 */
export function traceRibbon(view) {
  const { boot } = view;
  const node = el("div", "ribbon");
  const track = el("div", "track");
  const profile = el("canvas", "profile", null, { "aria-hidden": "true" });
  const experts = el("canvas", "expert-map", null, {
    role: "img",
    "aria-label": "Heaviest expert of each layer along the trace; the panel lists them by token",
  });
  const frame = el("div", "window");
  const cursor = el("div", "cursor");
  const labels = el("div", "track-labels");
  add(node, labels, track);
  add(track, profile, experts, frame, cursor);
  // Of an imported run the heaviest expert is not known.
  const rows = boot.has_routing && boot.has_weights ? boot.sparse_layers.length : 0;
  const rowHeight = rows ? Math.max(1, Math.min(8, Math.floor(MAP / rows))) : 0;
  /** @type {{stride: number, expert: Uint16Array} | null} */
  let map = null;
  /** @type {string | null} */
  let drawn = null; // how the map looks now

  const width = () => track.clientWidth || 1;
  /** @param {number} pos */
  const x = (pos) => (pos / view.count) * width();
  // To whole device pixels: edges between would blend and show as stripes.
  /** @param {number} left */
  const snap = (left) => {
    const ratio = window.devicePixelRatio || 1;
    return Math.round(left * ratio) / ratio;
  };

  function draw() {
    const w = width();
    const c = contextOf(profile, w, PROFILE + BAND + 2);
    c.clearRect(0, 0, w, PROFILE + BAND + 2);
    const { paint, data } = view;
    if (paint && paint.kind === "ramp") drawRamp(c, w, paint);
    else if (paint) drawBands(c, paint);
    for (let i = 0; i < view.count; i++) {
      let to = i;
      while (to + 1 < view.count && data.phase[to + 1] === data.phase[i]) to++;
      c.fillStyle = colours.phaseLine(data.phase[i]);
      c.fillRect(x(i), PROFILE + 2, Math.max(1, x(to + 1) - x(i) - 1), BAND);
      i = to;
    }
    drawFound(c);
    label();
    frameText();
    mark();
  }

  /**
   * Where the text that is looked for stands; places in one pixel are one stroke.
   * @param {CanvasRenderingContext2D} c
   */
  function drawFound(c) {
    const { ends } = view.data;
    let last = -1;
    c.fillStyle = colours.found();
    for (const start of view.found.starts) {
      const left = Math.round(x(above(ends, start)));
      if (left !== last) c.fillRect(left, 0, 2, 5);
      last = left;
    }
  }

  /**
   * A column of several tokens shows their largest value pale, so that no fork is averaged away,
   * and their mean on top of it.
   * @param {CanvasRenderingContext2D} c
   * @param {number} w
   * @param {Ramp} paint
   */
  function drawRamp(c, w, paint) {
    c.fillStyle = colours.line(paint.of);
    const columns = Math.min(Math.floor(w), view.count);
    const step = w / columns;
    for (let column = 0; column < columns; column++) {
      const from = Math.floor((column / columns) * view.count);
      const to = Math.max(from + 1, Math.floor(((column + 1) / columns) * view.count));
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
        const height = Math.max(1, (bin / (colours.BINS - 1)) * PROFILE);
        c.globalAlpha = bin ? alpha : 0.25;
        const left = snap(column * step);
        const right = snap((column + 1) * step);
        c.fillRect(left, PROFILE - height, right - left - (step > 3 ? 1 : 0), height);
      };
      if (to - from > 1) bar(most, to - from > 3 ? 0.25 : 0.5);
      bar(sum / known, 0.9);
    }
    c.globalAlpha = 1;
  }

  /**
   * @param {CanvasRenderingContext2D} c
   * @param {Bands} paint
   */
  function drawBands(c, paint) {
    for (let i = 0; i < view.count; i++) {
      const colour = paint.palette[paint.bins[i]];
      if (!colour || colour === "transparent") continue; // no expert is known, or it is not meant
      c.fillStyle =
        paint.kind === "expert"
          ? colours.expertLine(paint.bins[i], boot)
          : colours.phaseLine(paint.bins[i]);
      c.fillRect(snap(x(i)), 0, snap(x(i + 1)) - snap(x(i)), PROFILE);
    }
  }

  async function drawMap() {
    if (!rows) return experts.remove();
    experts.style.height = `${rows * rowHeight}px`;
    try {
      if (!map) {
        const body = await fetchJson(`/data/trace/${boot.trace_id}/experts`);
        map = { stride: body.stride, expert: decode(body.expert, "u2") };
      }
    } catch (error) {
      return view.fail(error);
    }
    const w = width();
    const loud = view.metric === "expert" && !attends(view);
    const look = [w, loud, view.only, theme()].join();
    if (look === drawn) return;
    drawn = look;
    const c = contextOf(experts, w, rows * rowHeight);
    const columns = map.expert.length / rows;
    const step = (w * map.stride) / view.count;
    const gap = rowHeight > 3 ? 1 : 0;
    const fills = Array.from({ length: boot.experts }, (_, e) =>
      view.only !== null && view.only !== e
        ? "transparent"
        : loud
          ? colours.expertLine(e, boot)
          : colours.expertFill(e, boot),
    );
    for (let s = 0; s < rows; s++) {
      for (let column = 0; column < columns; column++) {
        const fill = fills[map.expert[s * columns + column]];
        if (!fill) continue; // not recorded: a gap
        const left = snap(column * step);
        c.fillStyle = fill;
        c.fillRect(left, s * rowHeight, snap((column + 1) * step) - left, rowHeight - gap);
      }
    }
    mark();
  }

  function label() {
    labels.replaceChildren();
    /** @type {Record<string, string>} */
    const names = {
      entropy: "entropy",
      logprob: "surprise",
      margin: "contested",
      expert: `L${view.layer}`,
      phase: "phase",
    };
    const { head } = view;
    const shown = attends(view) && head ? `L${head.layer}.${head.head}` : names[view.metric];
    const top = el("span", "", shown);
    top.style.height = `${PROFILE + BAND + 4}px`;
    labels.appendChild(top);
    if (!rows) return;
    const all = boot.sparse_layers;
    const below = el("span", "ends");
    below.style.height = `${rows * rowHeight}px`;
    add(labels, add(below, el("i", "", `L${all[0]}`), el("i", "", `L${all[all.length - 1]}`)));
  }

  function frameText() {
    const [from, to] = view.text.visible();
    frame.hidden = from < 1 && to > view.count - 1;
    frame.style.left = `${x(from)}px`;
    frame.style.width = `${Math.max(2, x(to) - x(from))}px`;
  }

  function mark() {
    cursor.hidden = view.pos === null;
    if (view.pos !== null) cursor.style.left = `${x(view.pos + 0.5)}px`;
  }

  /** @param {PointerEvent} event */
  const posAt = (event) => {
    const box = track.getBoundingClientRect();
    return Math.floor(((event.clientX - box.left) / box.width) * view.count);
  };
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture(event.pointerId);
    const layer =
      event.target === experts
        ? boot.sparse_layers[Math.floor((event.offsetY / experts.clientHeight) * rows)]
        : null;
    view.setPos(posAt(event), true);
    if (layer !== null && layer !== undefined) view.setLayer(layer);
  });
  track.addEventListener("pointermove", (event) => {
    if (track.hasPointerCapture(event.pointerId)) view.setPos(posAt(event), true);
  });
  const observer = new ResizeObserver(() => {
    if (!document.contains(node)) return observer.disconnect();
    if (view.paint) draw();
    drawMap();
  });
  observer.observe(track);

  return { node, draw, drawMap, mark, frame: frameText };
}
