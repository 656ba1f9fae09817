// The whole trace on one axis: tracks under one another, which a click moves the focus on.

import { behindButton } from "../shared/behind.js";
import { contextOf } from "../shared/canvas.js";
import { add, el, whenIdle } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { theme } from "../shared/theme.js";
import { beliefTrack } from "./belief_track.js";
import { changeTrack } from "./change_track.js";
import { expertTrack } from "./expert_track.js";
import { canvasOf, profileTrack } from "./profile_track.js";
import { receivedTrack } from "./received_track.js";
import { stepAt } from "./steps.js";
import { stepsTrack } from "./steps_track.js";

/** @import { Ribbon, Track, View } from "./types.js" */

/** @typedef {{track: Track, canvas: HTMLCanvasElement, label: HTMLElement, quiet: HTMLElement}} Lane */

/**
 * @param {View} view
 * @returns {Ribbon}
 */
export function traceRibbon(view) {
  const node = el("div", "ribbon", null, { role: "group", "aria-label": "Along the trace" });
  const labels = el("div", "track-labels");
  const track = el("div", "track");
  const frame = el("div", "window");
  const cursor = el("div", "cursor");
  const tip = el("div", "tip ribbon-tip", null, { hidden: "" });
  const maps = { change: changeTrack(view), expert: expertTrack(view) };
  const chooser = el("select", "map-choice", null, {
    "aria-label": "What the map of layers shows",
  });
  add(
    chooser,
    el("option", "", "Routing change", { value: "change" }),
    el("option", "", "Heaviest expert", { value: "expert" }),
  );
  /** @type {Lane[]} */
  let lanes = [];
  let here = -2; // step in focus when the steps were last drawn
  add(node, labels, track, tip);

  const width = () => track.clientWidth || 1;
  /** @param {number} pos */
  const x = (pos) => (pos / view.count) * width();

  /** Which map of layers is shown: what was chosen, else what goes with the metric. */
  const mapShown = () => {
    const asked = view.host.param("map");
    if (asked === "change" || asked === "expert") return asked;
    return view.metric === "expert" ? "expert" : "change";
  };

  const tracks = [stepsTrack(view), profileTrack(view), beliefTrack(view)];
  const received = receivedTrack(view);

  /** @param {Track} one */
  function laneOf(one) {
    const canvas = canvasOf(one.name);
    const label = el("span", "track-label");
    const quiet = el("div", "track-quiet", null, { hidden: "" });
    return { track: one, canvas, label, quiet };
  }

  /** Make the lanes, of which the map of layers may be another than before. */
  function arrange() {
    const kept = new Map(lanes.map((lane) => [lane.track, lane]));
    const wanted = [...tracks, maps[mapShown()], received];
    lanes = wanted.map((one) => kept.get(one) || laneOf(one));
    labels.replaceChildren(...lanes.map(({ label }) => label));
    const boxes = lanes.map(({ canvas, quiet }) => add(el("div", "lane"), canvas, quiet));
    track.replaceChildren(...boxes, frame, cursor);
    for (const lane of lanes) {
      if (!kept.has(lane.track) && lane.track.load) lane.track.load().then(() => settle(lane));
    }
    readAhead();
  }

  /** Fetch the other map of layers when this one is here and the browser idle. */
  async function readAhead() {
    await maps[mapShown()].load?.();
    whenIdle(() => {
      if (node.isConnected) for (const map of Object.values(maps)) map.load?.();
    });
  }

  /** @param {Lane} lane */
  function settle(lane) {
    if (!document.contains(node)) return;
    drawLane(lane);
    nameLane(lane);
  }

  /** @param {Lane} lane */
  function drawLane({ track: one, canvas, quiet }) {
    const lacks = one.lacks();
    const failed = one.failed();
    const [w, h] = [width(), one.height()];
    const waits = one.load !== null && !lacks && !failed && one.behind() === null;
    canvas.hidden = Boolean(lacks || failed || waits);
    quiet.hidden = !canvas.hidden;
    if (canvas.hidden) {
      quiet.classList.toggle("error", failed !== null);
      quiet.replaceChildren(el("span", "", failed || lacks?.lacks || "reading…"));
      if (lacks?.command) {
        const copy = el("button", "copy", "Copy", { type: "button", "data-copy": lacks.command });
        add(quiet, el("code", "", lacks.command, { title: lacks.command }), copy);
      }
      return;
    }
    const c = contextOf(canvas, w, h);
    c.clearRect(0, 0, w, h);
    one.draw(c, w, h);
  }

  /**
   * Name a lane; what is named already is left alone, as it may have the keyboard.
   * @param {Lane} lane
   */
  function nameLane({ track: one, label }) {
    const ready = one.behind() !== null;
    const said = [one.label, one.height(), ready, one.scale()?.text, theme()].join();
    if (label.dataset.said === said) return;
    label.dataset.said = said;
    label.style.height = `${one.height()}px`;
    const isMap = one === maps.change || one === maps.expert;
    const name = el("span", "track-name", one.label);
    const shown = isMap ? chooser : one.term ? termed(name, one.term) : name;
    const words = add(el("span", "track-words"), shown, ready ? scaleOf(one) : null);
    label.replaceChildren(words, ...(ready ? [behindButton(one.label, one.behind)] : []));
  }

  /**
   * What a track's colours or heights mean.
   * @param {Track} one
   */
  function scaleOf(one) {
    const scale = one.scale();
    if (!scale) return null;
    const box = el("span", "track-scale");
    if (scale.colours.length) {
      const bar = el("i", "track-bar");
      bar.style.background = `linear-gradient(90deg, ${scale.colours.join(", ")})`;
      add(box, el("span", "", "0"), bar);
    }
    return add(box, el("span", "", scale.text));
  }

  function draw() {
    if (!lanes.some((lane) => lane.track === maps[mapShown()])) arrange();
    chooser.value = mapShown();
    for (const lane of lanes) settle(lane);
    here = stepAt(view.steps, view.pos);
    frameText();
    mark();
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
    const now = stepAt(view.steps, view.pos);
    if (now !== here && lanes.length) drawLane(lanes[0]);
    here = now;
  }

  // --- pointer --------------------------------------------------------------------------------

  /** @param {PointerEvent} event */
  const posAt = (event) => {
    const box = track.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * view.count);
    return Math.max(0, Math.min(view.count - 1, at));
  };

  /**
   * The lane under the pointer, and how far below its top.
   * @param {PointerEvent} event
   * @returns {[Lane, number] | null}
   */
  const laneAt = (event) => {
    for (const lane of lanes) {
      const box = lane.canvas.getBoundingClientRect();
      if (box.height && event.clientY >= box.top - 2 && event.clientY < box.bottom + 2) {
        return [lane, event.clientY - box.top];
      }
    }
    return null;
  };

  track.addEventListener("pointerdown", (event) => {
    if (event.target instanceof Element && event.target.closest(".track-quiet")) return;
    track.setPointerCapture(event.pointerId);
    const found = laneAt(event);
    const pos = posAt(event);
    view.setPos(found ? found[0].track.target(pos) : pos, true);
    const map = found && [maps.change, maps.expert].find((each) => each === found[0].track);
    const layer = map && found ? map.layerAt(found[1]) : null;
    if (layer !== null) view.setLayer(layer);
  });
  track.addEventListener("pointermove", (event) => {
    if (track.hasPointerCapture(event.pointerId)) {
      tip.hidden = true;
      return view.setPos(posAt(event), true);
    }
    const pos = posAt(event);
    view.panel.askSoon(() => pos);
    const found = laneAt(event);
    const rows = found?.[0].track.hover(pos, found[1]);
    tip.hidden = !rows;
    if (!rows) return;
    tip.replaceChildren(
      ...rows.map(([name, value]) =>
        add(el("div", "tip-row"), name ? el("span", "dim", name) : null, el("b", "", value)),
      ),
    );
    const left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 12);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${track.getBoundingClientRect().bottom + 8}px`;
  });
  track.addEventListener("pointerleave", () => {
    view.panel.askSoon(null);
    tip.hidden = true;
  });
  chooser.addEventListener("change", () => {
    view.host.setParams({ map: chooser.value });
    draw();
  });
  const observer = new ResizeObserver(() => {
    if (!node.isConnected) return observer.disconnect();
    if (view.paint) draw();
  });
  observer.observe(track);

  return { node, draw, mark, frame: frameText };
}
