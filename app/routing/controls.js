// The bar above the map: metric, phase, going to an expert, zoom.

import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { messageOf } from "../shared/text.js";
import { METRICS, PHASE_LABELS, UNKNOWN } from "./constants.js";
import { target } from "./goto.js";

/** @import { Acts, View } from "./types.js" */

/** What a key or button zooms in by. */
export const CLOSER = 0.6;

/** @typedef {{name: string, label: string, term: string | null, lacks: string}} Choice */

/**
 * @param {View} view
 * @param {Acts} acts
 */
export function controlsOf(view, acts) {
  const { counts, host } = view;
  const metrics = METRICS.map((each) => ({
    ...each,
    lacks: counts.view(each.name, "all") ? "" : UNKNOWN,
  }));
  const phases = Object.keys(PHASE_LABELS)
    .filter((phase) => counts.phases[phase])
    .map((name) => ({ name, label: PHASE_LABELS[name], term: null, lacks: "" }));
  const metric = segments("Metric", metrics, (name) => {
    view.metric = name;
    host.setParams({ metric: name });
    acts.draw();
  });
  const phase = segments("Phase", phases, (name) => {
    view.phase = name;
    host.setParams({ phase: name });
    acts.draw();
  });
  const ways = gotoBox(view);
  const node = add(
    el("div", "toolbar"),
    el("span", "label", "Show"),
    metric.node,
    termed(el("span", "label", "Phase"), "phase"),
    phase.node,
    el("span", "spacer"),
    ways.node,
    ...(counts.shape.zooms ? zoomButtons(acts) : []),
  );
  /** Mark what is shown. */
  const mark = () => {
    metric.mark(view.metric);
    phase.mark(view.phase);
  };
  return { node, mark, focus: ways.focus };
}

/**
 * @param {string} name
 * @param {Choice[]} choices
 * @param {(name: string) => void} choose
 */
function segments(name, choices, choose) {
  const node = el("div", "segments", null, { role: "group", "aria-label": name });
  const buttons = choices.map((choice) => {
    const button = el("button", "", choice.label, { type: "button", "data-choice": choice.name });
    button.disabled = choice.lacks !== "";
    if (choice.lacks) button.title = choice.lacks;
    else if (choice.term) termed(button, choice.term);
    button.addEventListener("click", () => choose(choice.name));
    return node.appendChild(button);
  });
  /** @param {string} chosen */
  const mark = (chosen) => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === chosen));
    }
  };
  return { node, mark };
}

/** @param {Acts} acts */
function zoomButtons(acts) {
  /** @type {(label: string, title: string, act: () => unknown) => HTMLElement} */
  const button = (label, title, act) => {
    const node = el("button", "button", label, { type: "button", title, "aria-label": title });
    node.addEventListener("click", act);
    return node;
  };
  return [
    button("−", "zoom out (-)", () => acts.zoom(1 / CLOSER)),
    button("+", "zoom in (+)", () => acts.zoom(CLOSER)),
    button("Whole", "the whole map (0)", acts.showWhole),
  ];
}

/**
 * The box that goes to an expert.
 * @param {View} view
 */
function gotoBox(view) {
  const { shape } = view.counts;
  const layer = shape.layers[shape.layers.length >> 1];
  const box = el("input", "find-box goto-text", null, {
    type: "text",
    "aria-label": "Go to a layer and expert",
    placeholder: `L${layer} E${Math.floor(shape.experts * 0.7)}`,
    autocomplete: "off",
  });
  const said = el("span", "goto-said", "", { role: "alert" });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    said.textContent = "";
    try {
      if (event.key === "Enter") view.setFocus(target(box.value, shape, view.focus), true);
      box.blur();
    } catch (error) {
      said.textContent = messageOf(error);
    }
  });
  const label = add(
    el("label", "find"),
    el("span", "goto-label", "Go to"),
    box,
    el("kbd", "", "/"),
  );
  return { node: add(el("span", "routing-ways"), label, said), focus: () => box.select() };
}
