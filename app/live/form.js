// The form: a question, interventions as text with a small form that writes them, and settings.

import { param, setParams } from "../shared/address.js";
import { add, el } from "../shared/dom.js";
import { messageOf, plural } from "../shared/text.js";
import { KINDS } from "./constants.js";
import { problemChoice } from "./problems.js";

/** @import { Boot, Form, Shape } from "./types.js" */

/**
 * @typedef {{prompt?: string, problem?: {set: string, id: string}, interventions: string[], beside: boolean, max_new_tokens: number,
 *   temperature: number, seed: number}} Request
 */

/**
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [className]
 */
const field = (label, control, className) =>
  add(el("label", `live-field ${className || ""}`), el("span", "label", label), control);

/**
 * @param {string} value
 * @param {Record<string, string | number>} attributes
 */
const input = (value, attributes) => {
  const node = el("input", "live-input", null, attributes);
  node.value = value;
  return node;
};

/**
 * @param {string[]} values
 * @param {string} label
 */
const select = (values, label) => {
  const node = el("select", "live-input", null, { "aria-label": label });
  for (const value of values) node.appendChild(el("option", "", value, { value }));
  return node;
};

/**
 * @param {Boot} boot
 * @param {(asked: Request) => Promise<void>} ask
 * @returns {Form}
 */
export function formOf(boot, ask) {
  const prompt = el("textarea", "live-input live-prompt", null, {
    rows: "5",
    maxlength: boot.characters,
    placeholder: "Make 24 from 4, 6, 1, using each number once.",
    "aria-label": "Question",
  });
  prompt.value = param("q") || "";
  const problem = problemChoice(
    boot.sets,
    (text) => (prompt.value = text),
    (error) => complain(messageOf(error)),
  );
  prompt.addEventListener("input", () => problem.typed(prompt.value));
  const acts = actsOf(boot);
  const tokens = input(param("n") || String(boot.usual), {
    type: "number",
    min: 1,
    max: boot.tokens,
    step: 1,
  });
  const temperature = input(param("temp") || "0", {
    type: "number",
    min: 0,
    max: 100,
    step: "any",
  });
  const seed = input(param("seed") || "0", { type: "number", min: 0, step: 1 });
  const beside = el("input", "", null, { type: "checkbox" });
  beside.checked = param("beside") !== "0";
  const wrong = el("p", "live-wrong error", null, { role: "alert", hidden: "" });
  const button = el("button", "button live-ask", "Think", { type: "submit" });
  button.appendChild(el("kbd", "", "Ctrl ↵"));

  /** @param {string} text */
  const complain = (text) => {
    wrong.textContent = text;
    wrong.hidden = !text;
  };

  async function submit() {
    if (button.disabled) return;
    complain("");
    const named = problem.named();
    /** @type {Request} */
    const asked = {
      ...(named ? { problem: named } : { prompt: prompt.value }),
      interventions: acts.texts(),
      beside: beside.checked,
      max_new_tokens: Number(tokens.value),
      temperature: Number(temperature.value),
      seed: Number(seed.value),
    };
    setParams({
      q: asked.prompt || null,
      set: named?.set,
      problem: named?.id,
      act: asked.interventions.length ? JSON.stringify(asked.interventions) : null,
      n: asked.max_new_tokens === boot.usual ? null : asked.max_new_tokens,
      temp: asked.temperature || null,
      seed: asked.seed || null,
      beside: asked.beside ? null : 0,
    });
    button.disabled = true;
    try {
      await ask(asked);
    } catch (error) {
      complain(messageOf(error));
    }
    button.disabled = false;
  }

  const node = el("form", "live-form", null, { "aria-label": "What to think about" });
  node.noValidate = true; // the server says it in words
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    submit();
  });
  const row = add(
    el("div", "live-row"),
    field("New tokens", tokens),
    field("Temperature", temperature),
    field("Seed", seed),
  );
  const both = add(el("label", "live-beside"), beside, el("span", "", "beside the plain run"));
  add(node, problem.node, field("Question", prompt), acts.node, both, row, wrong, button);
  return {
    node,
    know: acts.know,
    allow(why) {
      button.disabled = why !== "";
      button.title = why;
    },
    focus: () => prompt.focus(),
    submit,
  };
}

// --- interventions --------------------------------------------------------------------------------

/** @param {Boot} boot */
function actsOf(boot) {
  const list = el("ul", "live-acts");
  const kind = select(
    KINDS.map((each) => each.kind),
    "Kind of intervention",
  );
  const layers = input("", { placeholder: "5, 2-4 or *", "aria-label": "Layers", size: 8 });
  const what = input("", { placeholder: "3+7", size: 8 });
  const strength = input("", { placeholder: "0.5", "aria-label": "By how much", size: 5 });
  const phase = select(["everywhere", ...boot.phases], "Where");
  const says = el("p", "dim live-says");
  const whatField = field("Experts", what);
  const strengthField = field("By", strength);
  const chosen = () => KINDS.find((each) => each.kind === kind.value) || KINDS[0];

  function shown() {
    const { target, strength: by, says: said } = chosen();
    says.textContent = said;
    const name = target.startsWith("head") ? "Heads" : target === "expert" ? "Expert" : "Experts";
    what.setAttribute("aria-label", name);
    /** @type {HTMLElement} */ (whatField.firstChild).textContent = name;
    strengthField.hidden = !by;
    /** @type {HTMLElement} */ (strengthField.firstChild).textContent =
      by === "by" ? "By" : "Factor";
  }

  /** The text form of what the small form says. */
  const written = () => {
    const by = chosen().strength ? `=${strength.value.trim()}` : "";
    const where = phase.value === "everywhere" ? "" : `@${phase.value}`;
    return `${kind.value}:${layers.value.trim() || "*"}/${what.value.trim()}${by}${where}`;
  };

  /** @param {string} text */
  function addAct(text) {
    const box = input(text, { "aria-label": "Intervention", spellcheck: "false" });
    box.classList.add("mono");
    const remove = el("button", "live-remove", "×", {
      type: "button",
      "aria-label": "Take it out",
    });
    const item = add(el("li"), box, remove);
    remove.addEventListener("click", () => item.remove());
    list.appendChild(item);
    return box;
  }

  const button = el("button", "button", "Add", { type: "button" });
  button.addEventListener("click", () => addAct(written()));
  const typed = el("button", "live-typed", "type one", { type: "button" });
  typed.addEventListener("click", () => addAct("").focus());
  kind.addEventListener("change", shown);
  for (const text of actsAsked()) addAct(text);
  shown();

  const fields = add(
    el("div", "live-row"),
    field("Kind", kind),
    field("Layers", layers),
    whatField,
    strengthField,
    field("Where", phase),
  );
  const title = add(el("div", "live-title"), el("h3", "", "Interventions"), typed);
  const hint = el("p", "dim live-shape");
  const writer = add(el("div", "live-writer"), fields, says, hint, button);
  const node = add(el("div", "live-interventions"), title, list, writer);
  return {
    node,
    texts: () =>
      [...list.querySelectorAll("input")].map((box) => box.value.trim()).filter((text) => text),
    /** @param {Shape | null} shape */
    know(shape) {
      if (!shape) return;
      const { sparse_layers: sparse, layers: all, experts, heads } = shape;
      const from = sparse.length
        ? `layers ${sparse[0]} to ${sparse[sparse.length - 1]}`
        : "no layer";
      hint.textContent = `Experts 0 to ${experts - 1} in ${from}; heads 0 to ${heads - 1} in ${plural(all, "layer")}.`;
    },
  };
}

/** Interventions of the address. */
function actsAsked() {
  try {
    const found = JSON.parse(param("act") || "[]");
    return Array.isArray(found) ? found.map(String) : [];
  } catch {
    return [];
  }
}
