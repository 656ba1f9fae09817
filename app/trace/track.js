// What tracks of the ribbon share: data that come later, and colours of the page.

import { messageOf } from "../shared/text.js";
import { ink } from "../shared/theme.js";

/** @import { Lacks, View } from "./types.js" */

/** Height of a track that has nothing to show. */
export const QUIET = 20;

export { ink };

/**
 * A track that has nothing to show until its data are here.
 * @template D
 * @param {View} view
 * @param {string} path Of its data, below the trace.
 * @param {(body: any) => D} decoded
 */
export function fetched(view, path, decoded) {
  /** @type {{data: D | null, lacks: Lacks | null, error: string | null}} */
  const state = { data: null, lacks: null, error: null };
  /** @type {Promise<void> | null} */
  let asked = null;
  const load = () => (asked ??= read());
  async function read() {
    try {
      const body = await view.host.fetchJson(`/data/trace/${view.boot.trace_id}/${path}`);
      if (body.lacks) state.lacks = body;
      else state.data = decoded(body);
    } catch (error) {
      state.error = messageOf(error);
    }
  }
  return { state, load };
}

const TALL = 1200; // height of a screen from which tracks are drawn higher
const MORE = 1.6;

/**
 * A height in pixels: larger on large screens.
 * @param {number} height
 */
export const tall = (height) => (window.innerHeight < TALL ? height : Math.round(height * MORE));
