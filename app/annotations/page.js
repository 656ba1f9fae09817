// What people said of the trace or the expert that a page shows: a strip of it, and a key to say more.

import { intParam } from "../shared/address.js";
import { clientside, quietly } from "../shared/dash.js";
import { add, el, pageKeys } from "../shared/dom.js";
import { forgetLabels } from "../shared/expert_labels.js";
import { fetchJson, go } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { openDialog } from "./dialog.js";

/** @import { About, Answer, Said } from "./types.js" */
/** @import { Choice } from "./dialog.js" */

/**
 * @typedef {object} Strip
 * @property {HTMLElement} root
 * @property {About} about
 * @property {Answer} answer
 */

/** @type {Strip | null} */
let strip = null;

const here = () => (strip && document.contains(strip.root) ? strip : null);

/** @param {About} about */
const addressOf = (about) =>
  "trace_id" in about
    ? `/data/annotations/trace/${about.trace_id}`
    : `/data/annotations/expert/${about.layer}/${about.expert}?${new URLSearchParams({ run: about.run_id })}`;

/**
 * Read what was said, and draw it.
 * @param {HTMLElement} root
 * @param {About} about
 */
async function read(root, about) {
  try {
    const answer = await fetchJson(addressOf(about));
    if (!document.contains(root)) return;
    strip = { root, about, answer };
    draw(strip);
  } catch (error) {
    if (document.contains(root)) root.replaceChildren(el("p", "error", messageOf(error)));
  }
}

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
 * @param {Strip} s
 * @param {Said} said
 */
function chip(s, said) {
  const words = [said.label, said.note].filter(Boolean).join(" — ");
  const node = el("button", "annotation", null, {
    type: "button",
    title: `${words}\n${factsOf(said)}`,
    "data-annotation": said.annotation_id,
  });
  const step = said.kind === "step" ? el("span", "annotation-step", nameOf(said)) : null;
  const label = said.label ? el("b", "", said.label) : null;
  const note = said.note ? el("span", "annotation-note", said.note) : null;
  add(node, step, label, note, el("span", "annotation-author", said.author));
  if (said.moved) node.classList.add("moved");
  node.addEventListener("click", () => {
    if (said.pos !== null) show(said.pos);
    openDialog(
      [{ name: `Of ${nameOf(said)}. ${factsOf(said)}`, subject: {} }],
      s.answer,
      said,
      again,
    );
  });
  return node;
}

/**
 * Bring a token of the trace into focus.
 * @param {number} pos
 */
function show(pos) {
  if (intParam("tok") === pos) return;
  const query = new URLSearchParams(window.location.search);
  query.set("tok", String(pos));
  if (strip && "trace_id" in strip.about) go(`/trace/${strip.about.trace_id}?${query}`);
}

/** @param {Strip} s */
function draw(s) {
  const rows = s.answer.rows.filter((said) => said.source === "person" || said.kind !== "step");
  const more = el("button", "button annotation-add", "Annotate", { type: "button" });
  if (s.answer.refused) more.title = s.answer.refused;
  add(more, el("kbd", "", "a"));
  more.addEventListener("click", () => annotate(s));
  s.root.replaceChildren(more, ...rows.map((said) => chip(s, said)));
  s.root.setAttribute("role", "group");
  s.root.setAttribute("aria-label", "Annotations");
  s.root.dataset.count = String(s.answer.rows.length);
  if ("trace_id" in s.about) markSteps(s.answer.rows);
}

/** Read it again, of whatever page is open. */
function again() {
  forgetLabels();
  const s = here();
  if (s) read(s.root, s.about);
  window.dispatchEvent(new CustomEvent("ringlens:annotated"));
}

/**
 * What can be annotated: the focused step, and the subject of the page.
 * @param {Strip} s
 * @returns {Choice[]}
 */
function choicesOf({ about, answer }) {
  if (!("trace_id" in about)) {
    const name = `layer ${about.layer}, expert ${about.expert}`;
    return [{ name, subject: { ...about } }];
  }
  const pos = intParam("tok");
  const { trace_id } = about;
  const whole = { name: `the whole trace ${trace_id}`, subject: { trace_id } };
  const step = (answer.steps || []).find(([, from, to]) => pos !== null && from <= pos && pos < to);
  if (!step) return [whole];
  const [number, from, to] = step;
  const name = `step ${number}, tokens ${from} to ${to - 1}`;
  return [{ name, subject: { trace_id, step: number } }, whole];
}

/** @param {Strip} s */
const annotate = (s) => openDialog(choicesOf(s), s.answer, null, again);

/**
 * Mark the first tokens of annotated steps in the text of the trace.
 * @param {Said[]} rows
 */
function markSteps(rows) {
  const frame = document.getElementById("trace-app");
  if (!frame) return;
  if (frame.dataset.ready !== "true") {
    const ready = new MutationObserver(() => {
      if (frame.dataset.ready !== "true") return;
      ready.disconnect();
      const s = here();
      if (s) markSteps(s.answer.rows);
    });
    return ready.observe(frame, { attributes: true, attributeFilter: ["data-ready"] });
  }
  /** @type {Map<number, string[]>} */
  const said = new Map();
  for (const { kind, pos, label, note, author, source } of rows) {
    if (kind !== "step" || pos === null || source !== "person") continue;
    said.set(pos, [...(said.get(pos) || []), `${label || note} (${author})`]);
  }
  for (const span of frame.querySelectorAll(".trace-text .t")) {
    const words = said.get(/** @type {any} */ (span).tokenIndex);
    span.classList.toggle("annotated", Boolean(words));
    if (words) span.setAttribute("data-said", words.join(" · "));
    else span.removeAttribute("data-said");
  }
}

pageKeys(here, { a: annotate });

// What others say meanwhile; also between the first reading and the first beat.
window.addEventListener("ringlens:said", (event) => {
  const s = here();
  if (s && s.answer.said !== /** @type {CustomEvent} */ (event).detail) again();
});

clientside("annotations", {
  mount: quietly((about) => {
    const root = document.getElementById("annotations");
    if (root && about) read(root, about);
  }),
});
