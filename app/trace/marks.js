// Marks what was found in the text. Only what is on and near the screen: a trace may hold 64,000
// tokens and as many places. Spans stay as they are; the browser draws highlights over ranges.

import { above } from "./matches.js";

/** @import { View } from "./types.js" */

/**
 * A place of the trace's text in the text of a token's span, which ends before its line breaks.
 * @param {Node} span
 * @param {number} offset
 * @returns {[Node, number]}
 */
const pointIn = (span, offset) => {
  const text = span.firstChild;
  return text ? [text, Math.min(offset, (text.textContent || "").length)] : [span, 0];
};

/**
 * @param {View} view
 * @param {(i: number) => Node} spanOf
 * @param {number} index Of the match.
 */
function rangeOf(view, spanOf, index) {
  const { ends } = view.data;
  const { found } = view;
  /** @type {(i: number) => number} */
  const start = (i) => (i ? ends[i - 1] : 0);
  const first = above(ends, found.starts[index]);
  const last = above(ends, found.ends[index] - 1);
  const range = new Range();
  range.setStart(...pointIn(spanOf(first), found.starts[index] - start(first)));
  range.setEnd(...pointIn(spanOf(last), found.ends[index] - start(last)));
  return range;
}

/**
 * Highlight the matches that begin in some tokens, and the one that is in focus.
 * @param {View} view
 * @param {(i: number) => Node} spanOf
 * @param {number} from
 * @param {number} to
 */
export function markFound(view, spanOf, from, to) {
  if (!("highlights" in CSS)) return; // found and counted all the same
  const { starts } = view.found;
  const { ends } = view.data;
  const first = above(starts, (from ? ends[from - 1] : 0) - 1);
  const last = to > 0 ? above(starts, ends[to - 1] - 1) : 0;
  const all = new Highlight();
  const now = new Highlight();
  for (let i = first; i < last; i++) {
    (i === view.foundAt ? now : all).add(rangeOf(view, spanOf, i));
  }
  CSS.highlights.set("found", all);
  CSS.highlights.set("found-now", now);
}
