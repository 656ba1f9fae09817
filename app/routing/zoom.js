// The part of the map that is shown, as windows: what zooming, panning and going somewhere make.

/**
 * Layers that have experts, how many experts each has, in how many groups, how many a token
 * chooses, whether the map zooms, and a run of the model; null where nothing can be said of it.
 * @typedef {{layers: number[], experts: number, groups: number, k: number, zooms: boolean, run: string | null}} Shape
 */
/** @typedef {[number, number, number, number]} Window First and last expert, first and last layer. */
/** @typedef {{L: number, E: number | null}} Focus */

const LEAST = 8; // experts, or layers, that a key leaves on screen
const ROOM = [32, 16]; // experts and layers around one that is gone to

/** @param {Shape} shape @returns {Window} */
export const whole = ({ layers, experts }) => [
  0,
  experts - 1,
  layers[0],
  layers[layers.length - 1],
];

/** @type {(shape: Shape, now: Window) => boolean} */
export const isWhole = (shape, now) => {
  const all = whole(shape);
  return now.every((each, i) => Math.abs(each - all[i]) < 0.05);
};

/**
 * Put a span inside the limits, as wide as it was where there is room.
 * @type {(from: number, to: number, low: number, high: number) => [number, number]}
 */
const inside = (from, to, low, high) => {
  const span = Math.min(to - from, high - low);
  const start = Math.max(low, Math.min(high - span, from));
  return [start, start + span];
};

/**
 * The nearest window that lies on the map.
 * @type {(shape: Shape, wanted: Window) => Window}
 */
export function within(shape, wanted) {
  const all = whole(shape);
  const [left, right] = inside(wanted[0], wanted[1], all[0], all[1]);
  const [top, bottom] = inside(wanted[2], wanted[3], all[2], all[3]);
  return [left, right, top, bottom];
}

/**
 * Zoom around the expert in focus if it is shown, else around the middle.
 * @param {Window} now
 * @param {number} factor Below 1 zooms in.
 * @param {Focus} focus
 * @returns {Window}
 */
export function zoomed(now, factor, focus) {
  /** @type {(from: number, to: number, at: number | null) => [number, number]} */
  const around = (from, to, at) => {
    const middle = at !== null && at >= from && at <= to ? at : (from + to) / 2;
    const span = Math.max(LEAST - 1, (to - from + 1) * factor - 1);
    const part = (middle - from + 0.5) / (to - from + 1);
    const start = Math.round(middle + 0.5 - part * (span + 1));
    return [start, start + Math.round(span)];
  };
  const isThere = focus.E !== null && focus.E >= now[0] && focus.E <= now[1];
  const [left, right] = around(now[0], now[1], isThere ? focus.E : null);
  const [top, bottom] = around(now[2], now[3], isThere ? focus.L : null);
  return [left, right, top, bottom];
}

/**
 * Zoom around a place, by any factor, as a wheel does.
 * @param {Window} now
 * @param {number} factor
 * @param {[number, number]} at Expert and layer, with fractions.
 * @returns {Window}
 */
export function wheeled(now, factor, at) {
  /** @type {(from: number, to: number, middle: number) => [number, number]} */
  const around = (from, to, middle) => {
    const span = Math.max(LEAST, (to - from + 1) * factor);
    const start = middle - ((middle - from + 0.5) / (to - from + 1)) * span + 0.5;
    return [start, start + span - 1];
  };
  return [...around(now[0], now[1], at[0]), ...around(now[2], now[3], at[1])];
}

/**
 * Move by a quarter of what is shown.
 * @type {(now: Window, right: number, down: number) => Window}
 */
export function panned(now, right, down) {
  const x = right * Math.ceil((now[1] - now[0]) / 4);
  const y = down * Math.ceil((now[3] - now[2]) / 4);
  return [now[0] + x, now[1] + x, now[2] + y, now[3] + y];
}

/**
 * A window in which an expert is on screen: closer to it where the cells are too small.
 * @param {Window} now
 * @param {number} layer
 * @param {number} expert
 * @param {boolean} closer Whether to zoom in, if need be.
 * @returns {Window}
 */
export function revealing(now, layer, expert, closer) {
  const isShown = expert >= now[0] && expert <= now[1] && layer >= now[2] && layer <= now[3];
  const isSmall = now[1] - now[0] >= 2 * ROOM[0];
  if (isShown && !(closer && isSmall)) return now;
  const [wide, high] = closer && isSmall ? ROOM : [now[1] - now[0] + 1, now[3] - now[2] + 1];
  const [left, top] = [expert - (wide >> 1), layer - (high >> 1)];
  return [left, left + wide - 1, top, top + high - 1];
}

/**
 * The window that an address names; all of the map where it names none.
 * @type {(shape: Shape, text: string | null) => Window}
 */
export function asked(shape, text) {
  const found = /^([\d.]+)-([\d.]+),([\d.]+)-([\d.]+)$/.exec(text || "");
  const all = whole(shape);
  if (!found || !shape.zooms) return all;
  const [left, right, top, bottom] = found.slice(1).map(Number);
  const fits = left < right && right <= all[1] && top >= all[2] && top < bottom && bottom <= all[3];
  return fits ? [left, right, top, bottom] : all;
}

/**
 * How an address names a window; null for all of the map.
 * @type {(shape: Shape, now: Window) => string | null}
 */
export const written = (shape, now) => {
  if (isWhole(shape, now)) return null;
  const [left, right, top, bottom] = now.map((each) => Number(each.toFixed(1)));
  return `${left}-${right},${top}-${bottom}`;
};
