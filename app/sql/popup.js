// The list of completions at the caret of a text area, whose text `ink` shows letter by letter.

import { add, el } from "../shared/dom.js";

/** @import { Completion } from "./completion.js" */

/**
 * @typedef {object} Popup
 * @property {(found: Completion[], at: number) => void} show At a place of the text.
 * @property {() => void} hide
 * @property {() => boolean} isOpen
 * @property {(by: number) => void} move
 * @property {() => Completion | undefined} chosen
 * @property {() => boolean} isMoved Whether a row was chosen by hand.
 */

/**
 * Where a place of the text is drawn.
 * @param {Node} ink
 * @param {number} at
 */
const placeOf = (ink, at) => {
  const walker = document.createTreeWalker(ink, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let left = at;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const { length } = /** @type {Text} */ (node);
    if (left <= length) {
      range.setStart(node, left);
      range.setEnd(node, Math.min(length, left + 1));
      break;
    }
    left -= length;
  }
  return range.getBoundingClientRect();
};

/**
 * @param {HTMLElement} box
 * @param {HTMLTextAreaElement} area
 * @param {Node} ink
 * @param {() => void} accept Called when a row is clicked.
 * @returns {Popup}
 */
export const completionPopup = (box, area, ink, accept) => {
  const list = el("ul", "sql-popup", null, {
    id: "sql-popup",
    role: "listbox",
    "aria-label": "Completions",
    hidden: "",
  });
  for (const [name, value] of Object.entries({
    role: "combobox",
    "aria-autocomplete": "list",
    "aria-controls": "sql-popup",
    "aria-expanded": "false",
  })) {
    area.setAttribute(name, value);
  }
  /** @type {Completion[]} */
  let found = [];
  let current = 0;
  let moved = false;

  const isOpen = () => !list.hidden;

  function hide() {
    list.hidden = true;
    area.setAttribute("aria-expanded", "false");
    area.removeAttribute("aria-activedescendant");
  }

  function mark() {
    for (const [i, row] of [...list.children].entries()) {
      row.setAttribute("aria-selected", String(i === current));
    }
    const row = list.children[current];
    area.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  }

  /**
   * @param {Completion} each
   * @param {number} i
   */
  function rowOf(each, i) {
    const row = el("li", "", null, { role: "option", id: `sql-option-${i}` });
    add(row, el("span", "mono", each.name), el("span", "sql-type", each.kind));
    row.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the caret stays where it is
      current = i;
      accept();
    });
    return row;
  }

  /**
   * @param {Completion[]} wanted
   * @param {number} at
   */
  function show(wanted, at) {
    if (!wanted.length) return hide();
    found = wanted;
    current = 0;
    moved = false;
    list.replaceChildren(...found.map(rowOf));
    list.hidden = false;
    area.setAttribute("aria-expanded", "true");
    const frame = box.getBoundingClientRect();
    const place = placeOf(ink, at);
    const left = Math.min(place.left - frame.left - 8, frame.width - list.offsetWidth - 8);
    list.style.left = `${Math.max(8, left)}px`;
    list.style.top = `${place.bottom - frame.top + 3}px`;
    list.style.maxHeight = `${Math.max(120, Math.min(264, window.innerHeight - place.bottom - 16))}px`;
    mark();
  }

  /** @param {number} by */
  function move(by) {
    moved = true;
    current = (current + by + found.length) % found.length;
    mark();
  }

  area.addEventListener("blur", hide);
  area.addEventListener("scroll", hide);
  box.appendChild(list);
  return { show, hide, isOpen, move, chosen: () => found[current], isMoved: () => moved };
};
