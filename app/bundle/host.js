// The host of a bundle's views: what they ask of a server lies there by name, and pages are queries
// of one address.

import { param, setParams } from "../shared/address.js";
import { el } from "../shared/dom.js";
import { ATTENTION_BLOCK, ROUTING_BLOCK } from "../trace/constants.js";

/** @import { Said } from "../annotations/types.js" */
/** @import { Host } from "../shared/host.js" */

/** @typedef {(name: string) => Promise<any>} Read Reads what lies under a name: data/index. */

const OF_EXPERTS = /^\/data\/annotations\/expert/;
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
 * What people said of experts: all of it lies under the number of the run.
 * @param {Read} read
 * @param {string} path
 * @param {string[]} runs Their ids.
 */
async function saidOf(read, path, runs) {
  const { pathname, searchParams } = new URL(path, "http://bundle");
  const number = runs.indexOf(searchParams.get("run") || "");
  const answer = await read(`data/annotations/experts/${number}`);
  const [, layer, expert] = pathname.match(/\/expert\/(\d+)\/(\d+)$/) || [];
  if (layer === undefined) return answer;
  const isAsked = (/** @type {Said} */ each) =>
    each.layer === Number(layer) && each.expert === Number(expert);
  return { ...answer, rows: answer.rows.filter(isAsked) };
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
 * @param {string[]} runs Ids of the runs, by their numbers.
 * @param {number | null} trace
 * @param {number} headsBlock
 * @returns {Host}
 */
export const hostOf = (read, open, runs, trace = null, headsBlock = 1) => ({
  param,
  setParams,
  fetchJson: (path) =>
    OF_EXPERTS.test(path) ? saidOf(read, path, runs) : read(nameOf(path, headsBlock)),
  go(href) {
    const address = addressOf(href, trace);
    if (address) open(address);
  },
  link(href, className, text) {
    const address = addressOf(href, trace);
    return address ? el("a", className, text, { href: address }) : el("span", className, text);
  },
});
