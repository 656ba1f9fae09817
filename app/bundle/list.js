// The list of a bundle's traces.

import { add, el } from "../shared/dom.js";
import { number } from "../shared/text.js";

/** @import { Index, Summary } from "./types.js" */

/** @type {[string, string][]} Headings, and the classes of their columns. */
const COLUMNS = [
  ["Trace", "number"],
  ["Prompt", ""],
  ["Task", ""],
  ["Answer", ""],
  ["Tokens", "number"],
  ["Entropy", "number"],
];

/** @param {Index} index */
export function traceList(index) {
  const labelled = index.traces.some(({ labels }) => labels);
  /** @type {[string, string][]} */
  const columns = labelled ? [...COLUMNS, ["Labels", "labels"]] : COLUMNS;
  const heads = columns.map(([name, className]) => el("th", className, name, { scope: "col" }));
  const body = add(el("tbody"), ...index.traces.map((trace) => row(trace, labelled)));
  const table = add(el("table"), add(el("thead"), add(el("tr"), ...heads)), body);
  return add(el("div", "bundle-list"), table);
}

/**
 * Whether the answer is right; nothing where that is not known.
 * @param {Summary} trace
 */
export function verdict({ correct }) {
  if (correct === null) return null;
  return el("span", `pill ${correct ? "good" : "bad"}`, correct ? "correct" : "wrong");
}

/**
 * @param {Summary} trace
 * @param {boolean} labelled Whether there is a column of labels.
 */
function row(trace, labelled) {
  const link = el("a", "", trace.prompt, { href: `?trace=${trace.trace_id}` });
  return add(
    el("tr"),
    el("td", "number", trace.trace_id),
    add(el("td", "prompt"), link),
    el("td", "", trace.task ?? ""),
    add(el("td"), verdict(trace), el("span", "", ` ${trace.answer ?? ""}`)),
    el("td", "number", trace.tokens.toLocaleString("en")),
    el("td", "number", trace.entropy === null ? "–" : number(trace.entropy, 3)),
    labelled ? el("td", "", trace.labels) : null,
  );
}
