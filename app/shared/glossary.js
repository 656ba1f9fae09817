// Definitions of quantities: labels with data-term show theirs when they are pointed at or reached
// by Tab. The words are those of docs/glossary.md.

import { GLOSSARY } from "./constants.js";
import { add, el, hit } from "./dom.js";

const WAIT = 300; // milliseconds that the pointer rests first

/**
 * Have a label tell a definition; returns it.
 * @template {HTMLElement} N
 * @param {N} node
 * @param {string} name Of the quantity.
 * @returns {N}
 */
export const termed = (node, name) => {
  if (!GLOSSARY[name]) throw new Error(`the glossary has no ${name}`);
  node.classList.add("term");
  node.dataset.term = name;
  if (!(node instanceof HTMLButtonElement)) node.tabIndex = 0;
  return node;
};

/** @type {HTMLElement | null} */
let shown = null; // the label whose definition is on screen
let timer = 0;

/** The box of the definition, which is made when it is first shown. */
const box = () =>
  document.getElementById("term-tip") ||
  document.body.appendChild(el("div", "tip term-tip", null, { id: "term-tip", role: "tooltip" }));

function hide() {
  window.clearTimeout(timer);
  if (!shown) return;
  shown.removeAttribute("aria-describedby");
  shown = null;
  box().hidden = true;
}

/** @param {HTMLElement} node */
function show(node) {
  const term = GLOSSARY[node.dataset.term || ""];
  if (!term || !document.contains(node)) return;
  hide();
  shown = node;
  const tip = box();
  const head = add(el("div", "tip-head"), el("b", "", term.name), el("span", "dim", term.unit));
  const formula = term.formula ? el("code", "", term.formula) : null;
  tip.replaceChildren(head, el("p", "", term.meaning));
  add(tip, formula);
  tip.hidden = false;
  node.setAttribute("aria-describedby", tip.id);
  const at = node.getBoundingClientRect();
  const left = Math.min(at.left, window.innerWidth - tip.offsetWidth - 12);
  const below = at.bottom + 6;
  const fits = below + tip.offsetHeight < window.innerHeight - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${fits ? below : at.top - tip.offsetHeight - 6}px`;
}

document.addEventListener("pointerover", (event) => {
  const node = hit(event, "[data-term]");
  if (node === shown) return;
  hide();
  if (node) timer = window.setTimeout(() => show(node), WAIT);
});
document.addEventListener("focusin", (event) => {
  const focused = event.target instanceof Element ? event.target : null;
  const node =
    hit(event, "[data-term]") || focused?.nextElementSibling?.querySelector("[data-term]");
  if (node instanceof HTMLElement && focused?.matches(":focus-visible")) show(node);
  else hide();
});
document.addEventListener("focusout", hide);
document.addEventListener("pointerdown", hide);
document.addEventListener("scroll", hide, true);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
