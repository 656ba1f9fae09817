// What people said of a trace or an expert, as a strip, wherever that is shown; and the way to say more.

import { add, el } from "../shared/dom.js";
import { forgetLabels } from "../shared/expert_labels.js";
import { messageOf } from "../shared/text.js";
import { openDialog } from "./dialog.js";

/** @import { Host } from "../shared/host.js" */
/** @import { About, Answer, Said, Strip, Ties } from "./types.js" */
/** @import { Choice } from "./dialog.js" */

/** @param {About} about */
const addressOf = (about) =>
  "trace_id" in about
    ? `/data/annotations/trace/${about.trace_id}`
    : `/data/annotations/expert/${about.layer}/${about.expert}?${new URLSearchParams({ run: about.run_id })}`;

/** @param {Said} said */
function nameOf(said) {
  if (said.kind === "step") return `step ${said.step}`;
  return said.kind === "trace" ? "trace" : `layer ${said.layer}, expert ${said.expert}`;
}

/** @param {Said} said */
function factsOf(said) {
  const day = new Date(said.created).toLocaleString("en-GB", {
    dateStyle: "medium",
    timeStyle: "short",
  });
  const from = said.source === "person" ? "" : `, from ${said.source}`;
  const moved = said.moved ? " The step has been cut anew since." : "";
  return `${said.author}${from}, ${day}.${moved}`;
}

/**
 * What can be annotated: the step at a token, and what the strip is about.
 * @param {About} about
 * @param {Answer} answer
 * @param {number | null} pos
 * @returns {Choice[]}
 */
function choicesOf(about, answer, pos) {
  if (!("trace_id" in about)) {
    const name = `layer ${about.layer}, expert ${about.expert}`;
    return [{ name, subject: { ...about } }];
  }
  const { trace_id } = about;
  const whole = { name: `the whole trace ${trace_id}`, subject: { trace_id } };
  const step = (answer.steps || []).find(([, from, to]) => pos !== null && from <= pos && pos < to);
  if (!step) return [whole];
  const [number, from, to] = step;
  const name = `step ${number}, tokens ${from} to ${to - 1}`;
  return [{ name, subject: { trace_id, step: number } }, whole];
}

/**
 * Make a strip, and have it read what was said. Where nothing can be written as it is a copy, it only
 * shows; and shows nothing where nothing was said.
 * @param {About} about
 * @param {Host} host
 * @param {Ties} ties How it goes with the view that it stands in.
 * @param {Answer | null} [known] What was said when it was last read.
 * @returns {Strip}
 */
export function stripOf(about, host, ties, known = null) {
  const name = "trace_id" in about ? `Annotations of trace ${about.trace_id}` : "Annotations";
  const node = el("div", "annotations", null, { role: "group", "aria-label": name });
  /** @type {Answer | null} */
  let answer = known;

  async function read() {
    try {
      answer = await host.fetchJson(addressOf(about));
    } catch (error) {
      return node.replaceChildren(el("p", "error", messageOf(error)));
    }
    draw();
  }

  /** Something was said: read it again. */
  function again() {
    forgetLabels();
    read();
  }

  /** @param {Said} said */
  function chip(said) {
    const words = [said.label, said.note].filter(Boolean).join(" — ");
    const button = el("button", "annotation", null, {
      type: "button",
      title: `${words}\n${factsOf(said)}`,
      "data-annotation": said.annotation_id,
    });
    const step = said.kind === "step" ? el("span", "annotation-step", nameOf(said)) : null;
    const label = said.label ? el("b", "", said.label) : null;
    const note = said.note ? el("span", "annotation-note", said.note) : null;
    add(button, step, label, note, el("span", "annotation-author", said.author));
    if (said.moved) button.classList.add("moved");
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      if (!answer) return;
      if (said.pos !== null) ties.show?.(said.pos);
      const name = `Of ${nameOf(said)}. ${factsOf(said)}`;
      openDialog(host, [{ name, subject: {} }], answer, said, again);
    });
    return button;
  }

  function draw() {
    if (!answer) return;
    const rows = answer.rows.filter((said) => said.source === "person" || said.kind !== "step");
    node.replaceChildren(...(answer.is_copy ? [] : [button()]), ...rows.map(chip));
    node.hidden = !node.hasChildNodes();
    node.dataset.count = String(answer.rows.length);
    ties.changed?.();
  }

  function button() {
    const more = el("button", "button annotation-add", "Annotate", { type: "button" });
    if (answer?.refused) more.title = answer.refused;
    if (ties.key) add(more, el("kbd", "", ties.key));
    more.addEventListener("click", annotate);
    return more;
  }

  function annotate() {
    if (!answer || answer.is_copy) return;
    openDialog(host, choicesOf(about, answer, ties.pos?.() ?? null), answer, null, again);
  }

  // What others say meanwhile; also between the first reading and the first beat.
  const ends = new AbortController();
  /** @param {Event} event */
  const heard = (event) => {
    if (!node.isConnected) ends.abort();
    else if (answer && answer.said !== /** @type {CustomEvent} */ (event).detail) again();
  };
  window.addEventListener("ringlens:said", heard, { signal: ends.signal });
  if (known) draw();
  else read();
  return {
    node,
    annotate,
    rows: () => answer?.rows || [],
    answer: () => answer,
    chipsOf: (from, to) =>
      (answer?.rows || [])
        .filter((said) => said.kind === "step" && said.pos !== null)
        .filter(({ pos }) => from <= Number(pos) && Number(pos) < to)
        .map(chip),
  };
}
