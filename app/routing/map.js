// The map of layers × experts on the page: what is shown of it, pointer and wheel.

import { behindButton } from "../shared/behind.js";
import { contextOf } from "../shared/canvas.js";
import { add, el } from "../shared/dom.js";
import { labelOf } from "../shared/expert_labels.js";
import { asImage, drawMap, frameOf, imageOf, placesOf, said } from "./drawing.js";
import { asked, isWhole, wheeled, whole, within, written } from "./zoom.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Surface } from "../shared/surface.js" */
/** @import { Focus, Frame, Shape, Usage, UsageMap, Window } from "./types.js" */

/**
 * What lies under the pointer: an expert of a layer, an expert in the load, or a layer.
 * @typedef {{expert: number | null, layer: number | null, text: string}} Under
 */

const MOVED = 4; // pixels that make a drag of a click
const WHEEL = 0.0016; // zoom of a pixel that the wheel turns
const LATER = 120; // milliseconds without a move after which the address is written

/**
 * @param {Shape} shape
 * @param {() => Focus} focus
 * @param {(found: Partial<Focus>) => void} choose
 * @param {Host} host
 * @returns {UsageMap}
 */
export function usageMap(shape, focus, choose, host) {
  const node = el("div", "usage-map-box");
  const canvas = el("canvas", "", null, {
    role: "img",
    "aria-label": "A number per layer and expert; the keys [ ] and arrows choose an expert",
  });
  const tip = el("div", "tip", null, { hidden: "", role: "tooltip" });
  const behind = behindButton("Layer × expert", behindOf);
  add(node, canvas, behind, tip);
  /** @type {Usage | null} */
  let usage = null;
  /** @type {HTMLCanvasElement | null} */
  let image = null;
  let now = asked(shape, host.param("zoom"));
  let waiting = 0;

  const frame = () => frameOf(shape, node.clientWidth);

  /** @type {(c: Surface, f: Frame, part: Window, cells: HTMLCanvasElement | null) => void} */
  const drawOn = (c, f, part, cells) =>
    usage && drawMap(c, { usage, shape, f, now: part, focus: focus(), image: cells });

  function mark() {
    const f = frame();
    if (!usage || node.clientWidth < 100) return;
    const c = contextOf(canvas, node.clientWidth, f.height);
    c.clearRect(0, 0, node.clientWidth, f.height);
    drawOn(c, f, now, image);
    canvas.dataset.window = now.map((each) => Number(each.toFixed(2))).join(" ");
    canvas.dataset.box = [f.left, f.top, f.right, f.bottom].join(" ");
  }

  /** @param {Usage} next */
  function draw(next) {
    usage = next;
    image = asImage(shape) ? imageOf(next, shape) : null;
    mark();
  }

  /** @param {Window} wanted */
  function look(wanted) {
    if (!shape.zooms) return;
    now = within(shape, wanted);
    mark();
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      if (document.contains(node)) host.setParams({ zoom: written(shape, now) });
    }, LATER);
  }

  /** @param {number} layer */
  function scrollTo(layer) {
    const f = frame();
    const box = node.closest(".routing-main");
    if (!box) return;
    const y = node.getBoundingClientRect().top + placesOf(f, now).y(layer);
    const seen = box.getBoundingClientRect();
    if (y < seen.top + 20 || y > seen.bottom - 20) box.scrollTop += y - seen.top - seen.height / 2;
  }

  // --- pointer --------------------------------------------------------------------------------

  /**
   * Expert and layer, with fractions, at a place of the canvas.
   * @param {MouseEvent} event
   * @returns {[number, number]}
   */
  function at(event) {
    const f = frame();
    const x = (event.offsetX - f.left) / (f.right - f.left);
    const y = (event.offsetY - f.top) / (f.bottom - f.top);
    return [now[0] - 0.5 + x * (now[1] - now[0] + 1), now[2] - 0.5 + y * (now[3] - now[2] + 1)];
  }

  /**
   * @param {MouseEvent} event
   * @returns {Under | null}
   */
  function under(event) {
    if (!usage) return null;
    const f = frame();
    const [e, l] = at(event).map(Math.round);
    const { offsetX: x, offsetY: y } = event;
    const s = usage.layers.indexOf(l);
    if (x >= f.left && x < f.right && y >= f.loadTop && y < f.loadBottom) {
      const { L } = focus();
      const load = usage.load[usage.layers.indexOf(L) * shape.experts + e];
      return {
        expert: e,
        layer: null,
        text: `L${L} · E${e}  ${(100 * load).toFixed(2)}% of tokens`,
      };
    }
    if (s < 0 || y < f.top || y >= f.bottom) return null;
    if (x >= f.left && x < f.right) {
      const value = usage.values[s * shape.experts + e];
      const known = Number.isFinite(value) ? said(usage, value) : "nothing to show";
      return { expert: e, layer: l, text: `L${l} · E${e}  ${known}` };
    }
    const column = f.columns.findIndex(([from, to]) => x >= from && x < to);
    if (column < 0) return null;
    const [name, values] = [
      ["MaxVio", usage.violation],
      ["Gini", usage.gini],
    ][column];
    return { expert: null, layer: l, text: `L${l}  ${name} ${Number(values[s]).toFixed(3)}` };
  }

  /** @type {{x: number, y: number, from: Window, moved: boolean} | null} */
  let held = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held = { x: event.offsetX, y: event.offsetY, from: now, moved: false };
    canvas.setPointerCapture(event.pointerId);
    if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return point(event);
    const [dx, dy] = [event.offsetX - held.x, event.offsetY - held.y];
    held.moved ||= Math.hypot(dx, dy) > MOVED;
    tip.hidden = true;
    if (!held.moved) return;
    const f = frame();
    const experts = (-dx * (now[1] - now[0] + 1)) / (f.right - f.left);
    const layers = (-dy * (now[3] - now[2] + 1)) / (f.bottom - f.top);
    const { from } = held;
    look([from[0] + experts, from[1] + experts, from[2] + layers, from[3] + layers]);
  });
  canvas.addEventListener("pointerup", (event) => {
    const found = held && !held.moved ? under(event) : null;
    held = null;
    if (!found) return;
    /** @type {Partial<Focus>} */
    const chosen = {};
    if (found.expert !== null) chosen.E = found.expert;
    if (found.layer !== null) chosen.L = found.layer;
    choose(chosen);
  });
  canvas.addEventListener("pointercancel", () => {
    held = null;
  });
  canvas.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  canvas.addEventListener("dblclick", () => look(whole(shape)));
  canvas.addEventListener(
    "wheel",
    (event) => {
      const [e, l] = at(event);
      const inside = e >= now[0] - 0.5 && e < now[1] + 0.5 && l >= now[2] - 0.5 && l < now[3] + 0.5;
      const outwards = event.deltaY > 0;
      // Where there is no more to zoom, the page scrolls.
      if (!shape.zooms || !inside || event.ctrlKey || (outwards && isWhole(shape, now))) return;
      event.preventDefault();
      tip.hidden = true;
      look(wheeled(now, Math.exp(WHEEL * event.deltaY), [e, l]));
    },
    { passive: false },
  );

  /** @param {PointerEvent} event */
  function point(event) {
    const found = under(event);
    tip.hidden = !found;
    canvas.style.cursor = found ? "pointer" : "default";
    if (!found) return;
    const { expert, layer, text } = found;
    const said = expert === null || layer === null ? "" : labelOf(shape.run, layer, expert);
    tip.textContent = said ? `${text}  ${said}` : text;
    const left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 12);
    tip.style.left = `${left}px`;
    tip.style.top = `${event.clientY + 16}px`;
  }

  // --- what is behind it ----------------------------------------------------------------------

  function behindOf() {
    if (!usage) return null;
    const { title, phase, metric, layers, values, made } = usage;
    const difference = phase === "difference" ? ", think minus answer" : "";
    const of = phase === "all" ? "" : ` of the phase ${phase}`;
    return {
      title: `Layer × expert: ${title}`,
      name: `routing-${metric}-${phase}`,
      about: `${title}${difference || of}, for each layer and expert.`,
      columns: ["layer", "expert", metric],
      rows: () =>
        Array.from(values, (value, i) => [
          layers[Math.floor(i / shape.experts)],
          i % shape.experts,
          Number.isFinite(value) ? value : null,
        ]),
      made,
      /** @type {(c: Surface, width: number) => void} */
      draw: (c, width) => drawOn(c, frameOf(shape, width), now, null),
      /** @type {[number, number]} */
      size: [1200, frameOf(shape, 1200).height],
    };
  }

  new ResizeObserver((_, observer) => {
    if (!document.contains(node)) return observer.disconnect();
    mark();
  }).observe(node);

  return { node, shape, window: () => now, look, draw, mark, scrollTo };
}
