// The path of the thought: its steps on a map, near where they were routed alike. A click or the
// arrow keys lead from step to step.

import { behindButton } from "../shared/behind.js";
import { contextOf } from "../shared/canvas.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { roleColour, roleKeys, roleName } from "../shared/roles.js";
import { percent } from "../shared/text.js";
import { decode } from "../shared/typed_arrays.js";
import { stepAt } from "./steps.js";
import { fetched, ink, tall } from "./track.js";

/** @import { Surface } from "../shared/surface.js" */
/** @import { View } from "./types.js" */

const HEIGHT = 250; // on a screen of usual size
const EDGE = 14; // pixels around the points
const NEAR = 14; // pixels from a point that a click still means it

/**
 * @param {View} view
 */
export function pathMap(view) {
  const { steps } = view;
  const high = tall(HEIGHT);
  const node = el("section", "panel-section path-map", null, {
    "aria-label": "Path of the thought",
  });
  const canvas = el("canvas", "path-canvas", null, {
    role: "img",
    "aria-label": "Steps of the thought as points, near where they were routed alike",
  });
  const readout = el("p", "dim path-said");
  const { state, load } = fetched(view, "map", (body) => ({
    step: decode(body.step, "u4"),
    x: decode(body.x, "f4"),
    y: decode(body.y, "f4"),
    explained: /** @type {(number | null)[]} */ (body.explained),
    layers: /** @type {number[]} */ (body.layers),
    made: body.made,
  }));
  let asked = false;
  // Below the panel's edge it is not drawn: with thousands of steps that takes as long as the rest.
  let onScreen = false;
  let stale = false;
  /** Place among the steps, by number of the step. */
  const placeOf = new Map(steps ? Array.from(steps.step, (step, s) => [step, s]) : []);

  /**
   * Places of the points, in pixels.
   * @param {number} w
   * @param {number} h
   * @returns {[number, number][]}
   */
  function places(w, h) {
    const { data } = state;
    if (!data) return [];
    const [left, right] = [Math.min(...data.x), Math.max(...data.x)];
    const [low, high] = [Math.min(...data.y), Math.max(...data.y)];
    // One scale for both axes: distances mean something.
    const scale = Math.min(
      (w - 2 * EDGE) / Math.max(1e-6, right - left),
      (h - 2 * EDGE) / Math.max(1e-6, high - low),
    );
    return Array.from(data.x, (x, i) => [
      w / 2 + (x - (left + right) / 2) * scale,
      h / 2 - (data.y[i] - (low + high) / 2) * scale,
    ]);
  }

  /** Place among the steps of each point. */
  const stepOf = (/** @type {number} */ i) => (state.data && placeOf.get(state.data.step[i])) ?? -1;

  /** @type {(c: Surface, w: number, h: number) => void} */
  function draw(c, w, h) {
    const points = places(w, h);
    const here = stepAt(steps, view.pos);
    const [pale, medium, surface] = ["--text-3", "--text-2", "--surface"].map(ink);
    c.lineWidth = 1.2;
    for (let i = 1; i < points.length; i++) {
      c.strokeStyle = pale;
      // The older, the paler: the path has a direction.
      c.globalAlpha = 0.25 + 0.55 * (i / points.length);
      c.beginPath();
      c.moveTo(...points[i - 1]);
      c.lineTo(...points[i]);
      c.stroke();
    }
    c.globalAlpha = 1;
    points.forEach(([x, y], i) => {
      const s = stepOf(i);
      const large = i === 0 ? 6.5 : 4.5;
      c.beginPath();
      c.arc(x, y, large, 0, 2 * Math.PI);
      c.fillStyle = steps && s >= 0 ? roleColour(steps.role[s]) : pale;
      c.fill();
      c.lineWidth = 1;
      c.strokeStyle = surface;
      c.stroke();
      if (steps?.backtrack[s]) {
        c.beginPath();
        c.arc(x, y, large + 2.5, 0, 2 * Math.PI);
        c.lineWidth = 1.5;
        c.strokeStyle = medium;
        c.stroke();
      }
      if (s >= 0 && s === here) {
        c.beginPath();
        c.arc(x, y, large + 5, 0, 2 * Math.PI);
        c.lineWidth = 2;
        c.strokeStyle = ink("--accent");
        c.stroke();
      }
    });
  }

  function paint() {
    stale = !onScreen;
    if (!state.data || stale) return;
    const c = contextOf(canvas, canvas.clientWidth || 360, high);
    c.clearRect(0, 0, canvas.clientWidth, high);
    draw(c, canvas.clientWidth || 360, high);
  }

  /** Axes and marks in words. */
  function said() {
    const { data } = state;
    if (!data) return "";
    const share = data.explained.reduce((/** @type {number} */ a, b) => a + (b ?? 0), 0);
    const some = data.layers.length < view.boot.sparse_layers.length;
    const layers = some ? ` · layers ${data.layers.join(", ")}` : "";
    return `${percent(share)} of the variance · large: first · ringed: goes back${layers}`;
  }

  /** @returns {import("../shared/behind.js").Behind | null} */
  function behind() {
    const { data } = state;
    if (!data) return null;
    return {
      title: "Path of the thought",
      name: `trace-${view.boot.trace_id}-path`,
      about:
        "Principal components of the steps' signatures, which hold the shares of the experts on " +
        `each layer. Both axes hold ${said()}.`,
      columns: ["step", "role", "pc1", "pc2"],
      rows: () =>
        Array.from(data.step, (step, i) => {
          const s = stepOf(i);
          return [step, steps && s >= 0 ? roleName(steps.role[s]) : null, data.x[i], data.y[i]];
        }),
      made: data.made,
      draw,
      size: [720, 480],
    };
  }

  function fill() {
    const { data, lacks, error } = state;
    const head = add(
      el("h3", "path-head"),
      termed(el("span", "", "Path of the thought"), "path map"),
    );
    if (data) head.appendChild(behindButton("Path of the thought", behind));
    node.replaceChildren(head);
    if (data) {
      add(node, canvas, readout, steps ? roleKeys(steps.role) : null);
      readout.textContent = said();
      paint();
    } else if (error) node.appendChild(el("p", "error", error));
    else node.appendChild(el("p", "dim", lacks ? lacks.lacks : "Reading the path…"));
  }

  /** Show it, as the focus is now; the first time, fetch it. */
  function show() {
    if (!asked) {
      asked = true;
      if (view.noSteps) state.lacks = view.noSteps;
      else if (!view.boot.has_routing)
        state.lacks = { lacks: "Routing was not recorded.", command: "" };
      else load().then(fill);
      fill();
    }
    paint();
  }

  /**
   * The point under the pointer; -1 if there is none.
   * @param {MouseEvent} event
   */
  const pointAt = (event) => {
    let [best, least] = [-1, NEAR];
    places(canvas.clientWidth, high).forEach(([x, y], i) => {
      const far = Math.hypot(event.offsetX - x, event.offsetY - y);
      if (far < least) [best, least] = [i, far];
    });
    return best;
  };
  canvas.addEventListener("click", (event) => {
    const s = stepOf(pointAt(event));
    if (steps && s >= 0) view.setPos(steps.first[s], true);
  });
  canvas.addEventListener("pointermove", (event) => {
    const i = pointAt(event);
    const s = i < 0 ? -1 : stepOf(i);
    canvas.style.cursor = s >= 0 ? "pointer" : "default";
    readout.textContent =
      steps && s >= 0 ? `step ${steps.step[s]} · ${roleName(steps.role[s])}` : said();
  });
  canvas.addEventListener("pointerleave", () => {
    readout.textContent = said();
  });
  new ResizeObserver((_, observer) => {
    if (!document.contains(view.root)) return observer.disconnect();
    paint();
  }).observe(canvas);
  new IntersectionObserver((entries, observer) => {
    if (!document.contains(view.root)) return observer.disconnect();
    onScreen = entries[entries.length - 1].isIntersecting;
    if (onScreen && stale) paint();
  }).observe(canvas);

  return { node, show };
}
