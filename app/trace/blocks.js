// Blocks of records around a token, fetched once; the last ones are kept.

/** @import { Host } from "../shared/host.js" */
/** @import { Block } from "./types.js" */

const MOST = 64; // blocks that are kept: 16 MB of Ring-1T's routing

/**
 * @template {Block} B
 * @typedef {object} Blocks
 * @property {(pos: number) => B | undefined} find What is here of a token.
 * @property {(pos: number) => Promise<B>} load The same, fetched if need be.
 */

/**
 * @template {Block} B
 * @param {Host} host
 * @param {string} address Without the token's position.
 * @param {(body: any) => B} decode
 * @returns {Blocks<B>}
 */
export function blocksOf(host, address, decode) {
  /** @type {B[]} */
  const kept = [];
  /** @type {Map<number, Promise<B>>} */
  const waiting = new Map();
  /** @param {number} pos */
  const find = (pos) => kept.find((b) => pos >= b.start && pos < b.start + b.tokens);

  /** @param {number} pos */
  async function fetched(pos) {
    const body = await host.fetchJson(`${address}/${pos}`);
    const known = find(pos);
    if (known) return known;
    const block = decode(body);
    kept.push(block);
    if (kept.length > MOST) kept.shift();
    return block;
  }

  /** @param {number} pos */
  async function load(pos) {
    const found = find(pos);
    if (found) return found;
    const key = pos >> 3; // neighbours, as of a held arrow key, wait for one answer
    let answer = waiting.get(key);
    if (!answer) {
      answer = fetched(pos).finally(() => waiting.delete(key));
      waiting.set(key, answer);
    }
    return answer;
  }
  return { find, load };
}
