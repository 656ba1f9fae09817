// The host of a bundle's views: what they ask of a server lies there by name, and pages are queries
// of one address.

import { param, setParams } from "../shared/address.js";
import { el } from "../shared/dom.js";
import { ATTENTION_BLOCK, ROUTING_BLOCK } from "../trace/constants.js";

/** @import { Host } from "../shared/host.js" */

/** @typedef {(name: string) => Promise<any>} Read Reads what lies under a name: data/index. */

const OF_A_BLOCK = /\/(routing|statistics|attention)(?:\/[\w.]+)?\/(\d+)$/;

/**
 * The name under which the answer to a path lies; blocks have that of their first token.
 * @param {string} path
 * @param {number} headsBlock Tokens of a block of numbers of heads.
 */
function nameOf(path, headsBlock) {
  const name = path.replace(/^\//, "");
  const [, kind, pos] = name.match(OF_A_BLOCK) || [];
  if (!kind) return name;
  const sizes = { routing: ROUTING_BLOCK, attention: ATTENTION_BLOCK, statistics: headsBlock };
  const size = sizes[/** @type {keyof typeof sizes} */ (kind)];
  return name.replace(/\d+$/, String(Number(pos) - (Number(pos) % size)));
}

/**
 * The address of a page of the dashboard in the bundle; null where it has no such page.
 * @param {string} href
 * @param {number | null} trace The trace that is shown.
 */
function addressOf(href, trace) {
  const [, other] = href.match(/^\/trace\/(\d+)/) || [];
  if (other) return `?trace=${other}`;
  const [, layer, expert] = href.match(/^\/expert\/(\d+)\/(\d+)/) || [];
  return layer && trace !== null ? `?view=routing&trace=${trace}&L=${layer}&E=${expert}` : null;
}

/**
 * @param {Read} read
 * @param {(address: string) => void} open
 * @param {number | null} trace
 * @param {number} headsBlock
 * @returns {Host}
 */
export const hostOf = (read, open, trace = null, headsBlock = 1) => ({
  param,
  setParams,
  fetchJson: (path) => read(nameOf(path, headsBlock)),
  go(href) {
    const address = addressOf(href, trace);
    if (address) open(address);
  },
  link(href, className, text) {
    const address = addressOf(href, trace);
    return address ? el("a", className, text, { href: address }) : el("span", className, text);
  },
});
