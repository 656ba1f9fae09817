// Thoughts side by side: the plain run, and the one with interventions, token by token as they come.

import { BINS, ramp } from "../shared/colours.js";
import { add, el } from "../shared/dom.js";
import { link } from "../shared/host.js";
import { plural, visible } from "../shared/text.js";

/** @import { Form, Pair, Thought, Token } from "./types.js" */

const TOP = 2; // nats at the end of the scale

const WORDS = {
  waiting: "waiting",
  running: "thinking",
  stopping: "stopping",
  done: "",
  failed: "failed",
};
/** @type {Record<string, string>} */
const ENDS = { stop: "came to its end", length: "cut at its length", interrupted: "stopped" };

/**
 * One of them on screen.
 * @typedef {object} Column
 * @property {HTMLElement} node
 * @property {Token[]} tokens
 * @property {HTMLElement[]} spans
 * @property {(thought: Thought) => void} take
 * @property {(text: string) => void} note
 */

/**
 * @param {Thought} first
 * @param {{stop: (number: number) => void, again: Form}} acts
 * @returns {Pair}
 */
export function pairOf(first, { stop }) {
  const { prompt, problem, max_new_tokens: most, temperature, seed } = first.asked;
  const settings = [`at most ${plural(most, "token")}`];
  if (temperature) settings.push(`temperature ${temperature}`, `seed ${seed}`);
  const beside = el("span", "live-place");
  const facts = add(
    el("div", "live-facts"),
    problem ? el("span", "tag", problem.id) : null,
    problem?.answer ? el("span", "", `expected ${problem.answer}`) : null,
    el("span", "", settings.join(" · ")),
  );
  const title = add(el("div", "live-title"), el("h2", "", prompt, { title: prompt }), beside);
  const head = add(el("header", "live-head"), title, facts);
  const columns = el("div", "live-columns");
  const node = add(
    el("section", "live-pair", null, { "aria-label": prompt.slice(0, 80) }),
    head,
    columns,
  );
  /** @type {Map<number, Column>} */
  const shown = new Map();
  /** @type {Map<number, Thought>} */
  const thoughts = new Map();

  /** @param {Thought} thought */
  function take(thought) {
    let column = shown.get(thought.number);
    if (!column) {
      column = columnOf(thought, stop);
      shown.set(thought.number, column);
      columns.appendChild(column.node);
    }
    column.take(thought);
    thoughts.set(thought.number, thought);
    compare();
    lead();
  }

  /** Lead to both traces side by side, once they are whole. */
  function lead() {
    const both = [...thoughts.values()].filter(({ state }) => state === "done");
    const [a, b] = both.map(({ trace }) => trace);
    if (both.length < 2 || a === null || b === null || beside.hasChildNodes()) return;
    beside.appendChild(link(`/beside/${a}/${b}`, "button", "Side by side, step by step"));
  }

  /** Mark where the two part. */
  function compare() {
    const [a, b] = [...shown.values()];
    if (!a || !b || !a.tokens.length || !b.tokens.length) return;
    const both = Math.min(a.tokens.length, b.tokens.length);
    let same = 0;
    while (same < both && a.tokens[same][0] === b.tokens[same][0]) same++;
    for (const column of [a, b]) {
      column.node.querySelector(".parted")?.classList.remove("parted");
      if (same < both) column.spans[same].classList.add("parted");
    }
    const prompts = a.tokens.findIndex(([, phase]) => phase > 0);
    const own = Math.max(0, same - (prompts < 0 ? same : prompts));
    b.note(same < both ? `parts after ${plural(own, "token")}` : "the same so far");
  }

  node.addEventListener("theme", () => {
    for (const column of shown.values()) {
      const palette = ramp("entropy");
      column.spans.forEach((span, i) => {
        colour(span, column.tokens[i], palette);
      });
    }
  });
  return { node, take };
}

/**
 * @param {HTMLElement} span
 * @param {Token} token
 * @param {string[]} palette
 */
function colour(span, [, phase, entropy], palette) {
  span.dataset.phase = String(phase);
  const bin = entropy === null || !phase ? 0 : Math.min(1, entropy / TOP) * (BINS - 1);
  span.style.backgroundColor = palette[Math.round(bin)];
}

/**
 * What a thought answered, and whether that is right.
 * @param {NonNullable<Thought["grade"]>} grade
 */
function verdict({ answer, correct }) {
  const said = correct ? "correct" : "wrong";
  const pill = correct === null ? null : el("span", `pill ${correct ? "good" : "bad"}`, said);
  return [pill, el("code", "answer", answer ?? "no answer", { title: answer ?? "" })];
}

/**
 * @param {Thought} first
 * @param {(number: number) => void} stop
 * @returns {Column}
 */
function columnOf(first, stop) {
  const { interventions } = first.asked;
  const name = el("span", "live-name");
  if (interventions.length)
    for (const text of interventions) name.appendChild(el("code", "", text));
  else name.textContent = "Plain run";
  const state = el("span", "live-state");
  const pace = el("span", "dim live-pace");
  const parts = el("span", "dim live-parts");
  const place = el("span", "live-place");
  const end = el("button", "button live-stop", "Stop", { type: "button" });
  end.addEventListener("click", () => {
    end.disabled = true;
    stop(first.number);
  });
  const bar = el("i");
  const progress = add(el("div", "live-progress"), bar);
  const wrong = el("p", "error live-error", null, { hidden: "" });
  const text = el("div", "live-text", null, {
    tabindex: "0",
    role: "log",
    "aria-label": "Its tokens",
  });
  const head = add(el("div", "live-thought-head"), name, el("span", "spacer"), place, end);
  const grade = el("span", "live-grade");
  const under = add(el("div", "live-under"), state, grade, pace, parts);
  const node = add(el("article", "live-thought"), head, under, progress, wrong, text);
  /** @type {Token[]} */
  const tokens = [];
  /** @type {HTMLElement[]} */
  const spans = [];

  /** @param {Thought} thought */
  function grow(thought) {
    const follows = text.scrollTop + text.clientHeight > text.scrollHeight - 40;
    if (thought.start < tokens.length) {
      tokens.length = thought.start;
      for (const span of spans.splice(thought.start)) span.remove();
    }
    const palette = ramp("entropy");
    for (const token of thought.tokens) {
      const span = el("span", "lt", token[0]);
      span.title = `${visible(token[0])} #${tokens.length}${token[2] === null ? "" : ` · entropy ${token[2].toFixed(2)} nats`}`;
      colour(span, token, palette);
      spans.push(span);
      tokens.push(token);
      text.appendChild(span);
    }
    if (follows) text.scrollTop = text.scrollHeight;
  }

  /** @param {Thought} thought */
  function take(thought) {
    grow(thought);
    const going = thought.state === "running" || thought.state === "stopping";
    node.dataset.state = thought.state;
    const said =
      thought.state === "done"
        ? ENDS[thought.reason || ""] || thought.reason
        : WORDS[thought.state];
    state.replaceChildren();
    if (going) state.appendChild(el("i", "pulse"));
    state.appendChild(el("span", "", said || ""));
    const rate =
      thought.pace === null
        ? ""
        : ` · ${thought.pace.toFixed(thought.pace < 10 ? 1 : 0)} tokens a second`;
    pace.textContent = thought.written ? `${plural(thought.written, "token")}${rate}` : "";
    const share = thought.written / thought.asked.max_new_tokens;
    bar.style.width = `${Math.min(100, 100 * share)}%`;
    progress.hidden = !going;
    end.hidden = !going && thought.state !== "waiting";
    wrong.hidden = !thought.error;
    wrong.textContent = thought.error || "";
    if (thought.grade && !grade.hasChildNodes()) add(grade, ...verdict(thought.grade));
    if (thought.trace !== null && !place.hasChildNodes()) {
      place.appendChild(link(`/trace/${thought.trace}`, "button", `Trace ${thought.trace}`));
    }
  }

  return {
    node,
    tokens,
    spans,
    take,
    note(said) {
      parts.textContent = said;
    },
  };
}
