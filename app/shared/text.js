// Numbers and tokens as text.

import { BLANKS, NOTHING } from "./constants.js";

/**
 * @param {number} value
 * @param {number} digits
 */
export const number = (value, digits) => {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "–";
  return value
    .toFixed(digits)
    .replace(/^-(?=0\.?0*$)/, "")
    .replace("-", "−");
};

/**
 * A number, or that there is none: what was not recorded must not look like a zero.
 * @param {number} value
 * @param {number} digits
 * @param {string} [unit]
 */
export const numberOr = (value, digits, unit) =>
  Number.isNaN(value) ? "not recorded" : number(value, digits) + (unit || "");

/** @param {number} value */
export const percent = (value) =>
  Number.isFinite(value) ? `${(100 * value).toFixed(value >= 0.0995 ? 0 : 1)}%` : "–";

/**
 * A count and its noun: '1 token', '2 tokens'.
 * @param {number} n
 * @param {string} noun
 */
export const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

/**
 * A token's text with its blanks made visible.
 * @param {string} text
 */
export const visible = (text) =>
  text === "" ? NOTHING : text.replace(/[ \n\t]/g, (blank) => BLANKS[blank]);

/**
 * What an error says.
 * @param {unknown} error
 */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));
