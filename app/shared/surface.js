// What charts are drawn on: a canvas on the page, or the text of an SVG file.

/**
 * The part of a canvas's context that charts use, so that they draw on either.
 * @typedef {Pick<CanvasRenderingContext2D, "fillStyle" | "strokeStyle" | "lineWidth" |
 *   "globalAlpha" | "font" | "textAlign" | "textBaseline" | "fillRect" | "strokeRect" |
 *   "beginPath" | "moveTo" | "lineTo" | "quadraticCurveTo" | "arc" | "fill" | "stroke" |
 *   "fillText" | "setLineDash">} Surface
 */

const ESCAPES = new Map(Object.entries({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }));

/** @param {unknown} text */
const escaped = (text) =>
  String(text)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML has no place for them
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "�")
    .replace(/[&<>"]/g, (found) => ESCAPES.get(found) || found);

/** @param {number} value */
const short = (value) => String(Math.round(value * 100) / 100);

const ANCHORS = new Map(Object.entries({ center: "middle", right: "end", end: "end" }));
const BASELINES = new Map(Object.entries({ middle: "central", top: "hanging" }));

/**
 * A surface that writes SVG.
 * @implements {Surface}
 */
class SvgSurface {
  /** @type {any} */ fillStyle = "#000";
  /** @type {any} */ strokeStyle = "#000";
  lineWidth = 1;
  globalAlpha = 1;
  font = "11px sans-serif";
  /** @type {CanvasTextAlign} */ textAlign = "left";
  /** @type {CanvasTextBaseline} */ textBaseline = "alphabetic";
  /** @type {string[]} */
  parts = [];
  /** @type {string[]} */
  #path = [];
  /** @type {number[]} */
  #dash = [];

  get #alpha() {
    return this.globalAlpha < 1 ? ` opacity="${short(this.globalAlpha)}"` : "";
  }

  get #line() {
    const dash = this.#dash.length ? ` stroke-dasharray="${this.#dash.join(" ")}"` : "";
    return ` fill="none" stroke="${escaped(this.strokeStyle)}" stroke-width="${short(this.lineWidth)}"${dash}${this.#alpha}`;
  }

  /** @type {Surface["fillRect"]} */
  fillRect(x, y, width, height) {
    const box = `x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"`;
    this.parts.push(`<rect ${box} fill="${escaped(this.fillStyle)}"${this.#alpha}/>`);
  }

  /** @type {Surface["strokeRect"]} */
  strokeRect(x, y, width, height) {
    const box = `x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"`;
    this.parts.push(`<rect ${box}${this.#line}/>`);
  }

  beginPath() {
    this.#path = [];
  }

  /** @type {Surface["moveTo"]} */
  moveTo(x, y) {
    this.#path.push(`M${short(x)} ${short(y)}`);
  }

  /** @type {Surface["lineTo"]} */
  lineTo(x, y) {
    this.#path.push(`L${short(x)} ${short(y)}`);
  }

  /** @type {Surface["quadraticCurveTo"]} */
  quadraticCurveTo(a, b, x, y) {
    this.#path.push(`Q${short(a)} ${short(b)} ${short(x)} ${short(y)}`);
  }

  /**
   * A whole circle: no chart draws less.
   * @type {Surface["arc"]}
   */
  arc(x, y, radius) {
    const r = short(radius);
    this.#path.push(`M${short(x - radius)} ${short(y)}`);
    this.#path.push(
      `a${r} ${r} 0 1 0 ${short(2 * radius)} 0a${r} ${r} 0 1 0 ${short(-2 * radius)} 0`,
    );
  }

  fill() {
    const d = this.#path.join("");
    this.parts.push(`<path d="${d}" fill="${escaped(this.fillStyle)}"${this.#alpha}/>`);
  }

  stroke() {
    this.parts.push(`<path d="${this.#path.join("")}"${this.#line}/>`);
  }

  /** @param {Iterable<number>} dash */
  setLineDash(dash) {
    this.#dash = [...dash];
  }

  /** @type {Surface["fillText"]} */
  fillText(text, x, y) {
    const anchor = ANCHORS.get(this.textAlign);
    const baseline = BASELINES.get(this.textBaseline);
    const place = `x="${short(x)}" y="${short(y)}"${anchor ? ` text-anchor="${anchor}"` : ""}${baseline ? ` dominant-baseline="${baseline}"` : ""}`;
    const look = `style="font: ${escaped(this.font)}" fill="${escaped(this.fillStyle)}"${this.#alpha}`;
    this.parts.push(`<text ${place} ${look}>${escaped(text)}</text>`);
  }
}

/**
 * A chart as the text of an SVG file.
 * @param {(surface: Surface, width: number, height: number) => void} draw
 * @param {number} width
 * @param {number} height
 * @param {string} title
 * @param {string} background
 */
export const svgOf = (draw, width, height, title, background) => {
  const surface = new SvgSurface();
  surface.fillStyle = background;
  surface.fillRect(0, 0, width, height);
  draw(surface, width, height);
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>\n<title>${escaped(title)}</title>\n${surface.parts.join("\n")}\n</svg>\n`;
};
