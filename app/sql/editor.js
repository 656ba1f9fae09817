// The query's text: a plain text area, with the same text in colours behind it.

import { el } from "../shared/dom.js";
import { completions, wordAt } from "./completion.js";
import { completionPopup } from "./popup.js";

/** @import { Names } from "./completion.js" */

const ENOUGH = 2; // letters of a word after which the list opens by itself

export const WORDS = new Set(
  (
    "all and any array as asc asof between by case cast columns cross desc describe distinct else " +
    "end except exclude exists false filter from full group having ilike in inner interval " +
    "intersect into is join lambda lateral left like limit natural not null nulls offset on or " +
    "order outer over partition pivot positional qualify recursive replace right rows sample " +
    "select semi set show similar summarize table then true union unnest unpivot using values " +
    "when where window with"
  ).split(" "),
);
const PIECES =
  /(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|('(?:[^']|'')*'?)|("(?:[^"]|"")*"?)|(\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b)|([A-Za-z_]\w*)|([\s\S])/gi;

/**
 * Class of a piece of the query; "" for none.
 * @param {RegExpExecArray} match
 * @param {string} text
 */
const kindOf = (match, text) => {
  const [piece, comment, string, , number, word] = match;
  if (comment) return "c";
  if (string) return "s";
  if (number) return "n";
  if (word && WORDS.has(word.toLowerCase())) return "k";
  return word && text[match.index + piece.length] === "(" ? "f" : "";
};

/**
 * Fill `ink` with the query in colours; the letters are those of the text area, so they coincide.
 * @param {Node} ink
 * @param {string} text
 */
export const colourSql = (ink, text) => {
  const parts = document.createDocumentFragment();
  for (const match of text.matchAll(PIECES)) {
    const kind = kindOf(match, text);
    parts.append(kind ? el("span", kind, match[0]) : match[0]);
  }
  parts.append("\n"); // a last empty line has a height, too
  ink.textContent = "";
  ink.appendChild(parts);
};

/**
 * @typedef {object} Editor
 * @property {HTMLTextAreaElement} area
 * @property {(piece: string) => void} insert
 * @property {(value: string) => void} set
 */

/**
 * The editor in `box`; `changed` is told of every change.
 * @param {HTMLElement} box
 * @param {string} text
 * @param {Names} names What it completes.
 * @param {(value: string) => void} changed
 * @returns {Editor}
 */
export const sqlEditor = (box, text, names, changed) => {
  const ink = el("pre", "sql-ink", null, { "aria-hidden": "true" });
  const area = el("textarea", "sql-text", null, {
    id: "sql-text",
    "aria-label": "Query",
    spellcheck: "false",
    autocapitalize: "off",
    autocomplete: "off",
    placeholder: "select … from traces",
  });
  let inserting = false; // by us, not typed
  const follow = () => {
    colourSql(ink, area.value);
    area.style.height = "auto";
    const height = Math.min(Math.max(area.scrollHeight, 118), window.innerHeight * 0.4);
    area.style.height = `${height}px`;
    ink.scrollTop = area.scrollTop;
    changed(area.value);
  };
  area.addEventListener("input", (event) => {
    follow();
    const typed = event instanceof InputEvent && event.inputType === "insertText" && !inserting;
    if (typed || popup.isOpen()) complete(ENOUGH);
  });
  area.addEventListener("scroll", () => {
    ink.scrollTop = area.scrollTop;
    ink.scrollLeft = area.scrollLeft;
  });
  // --- completion -----------------------------------------------------------------------------

  /**
   * Open the list at the caret, if the word there has enough letters; close it if not.
   * @param {number} least
   */
  const complete = (least) => {
    const caret = area.selectionStart;
    const { owner, word } = wordAt(area.value.slice(0, caret));
    const fits = caret === area.selectionEnd && (word.length >= least || owner !== "");
    popup.show(fits ? completions(area.value, caret, names) : [], caret - word.length);
  };

  const accept = () => {
    const found = popup.chosen();
    const caret = area.selectionStart;
    const { word } = wordAt(area.value.slice(0, caret));
    popup.hide();
    if (!found) return;
    area.setSelectionRange(caret - word.length, caret);
    insert(found.name);
  };

  /** The word at the caret has one end only, or the list is opened. */
  const tab = () => {
    complete(1);
    if (!popup.isOpen()) return false;
    const { word } = wordAt(area.value.slice(0, area.selectionStart));
    if (completions(area.value, area.selectionStart, names).length === 1 && word) accept();
    return true;
  };

  /**
   * What a key does to the list; whether it was meant for it.
   * @param {KeyboardEvent} event
   */
  const forList = (event) => {
    if (event.key === " " && event.ctrlKey) {
      complete(0);
      return true;
    }
    if (event.key === "Tab" && !event.shiftKey && !popup.isOpen()) return tab();
    if (!popup.isOpen()) return false;
    if (event.key === "Tab" && !event.shiftKey) accept();
    else if (event.key === "Enter" && popup.isMoved() && !event.ctrlKey) accept();
    else if (event.key === "ArrowDown") popup.move(1);
    else if (event.key === "ArrowUp") popup.move(-1);
    else if (event.key === "Escape") popup.hide();
    else {
      if (/^(Enter|Arrow|Home|End|Page)/.test(event.key)) popup.hide();
      return false;
    }
    return true;
  };
  area.addEventListener("keydown", (event) => {
    if (!forList(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Esc closes the list and nothing else
  });

  // --- typing ---------------------------------------------------------------------------------

  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.shiftKey) return;
    // A new line begins where the line before began.
    const line = area.value.slice(0, area.selectionStart).split("\n").pop() || "";
    const indent = line.slice(0, line.length - line.replace(/^ */, "").length);
    if (!indent) return;
    event.preventDefault();
    insert(`\n${indent}`);
  });
  // execCommand keeps the browser's own undo, which setRangeText would lose.
  /** @param {string} piece */
  const insert = (piece) => {
    area.focus();
    inserting = true;
    if (!document.execCommand("insertText", false, piece)) {
      area.setRangeText(piece, area.selectionStart, area.selectionEnd, "end");
      follow();
    }
    inserting = false;
  };
  /** @param {string} value */
  const set = (value) => {
    area.focus();
    area.select();
    insert(value);
    area.setSelectionRange(value.length, value.length);
  };
  box.replaceChildren(ink, area);
  const popup = completionPopup(box, area, ink, accept);
  area.value = text;
  follow();
  return { area, insert, set };
};
