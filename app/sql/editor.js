// The query's text: a plain text area, with the same text in colours behind it.

import { el } from "../shared/dom.js";

const WORDS = new Set(
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
 * @param {Element} box
 * @param {string} text
 * @param {(value: string) => void} changed
 * @returns {Editor}
 */
export const sqlEditor = (box, text, changed) => {
  const ink = el("pre", "sql-ink", null, { "aria-hidden": "true" });
  const area = el("textarea", "sql-text", null, {
    id: "sql-text",
    "aria-label": "Query",
    spellcheck: "false",
    autocapitalize: "off",
    autocomplete: "off",
    placeholder: "select … from traces",
  });
  const follow = () => {
    colourSql(ink, area.value);
    area.style.height = "auto";
    const height = Math.min(Math.max(area.scrollHeight, 118), window.innerHeight * 0.4);
    area.style.height = `${height}px`;
    ink.scrollTop = area.scrollTop;
    changed(area.value);
  };
  area.addEventListener("input", follow);
  area.addEventListener("scroll", () => {
    ink.scrollTop = area.scrollTop;
    ink.scrollLeft = area.scrollLeft;
  });
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
    if (!document.execCommand("insertText", false, piece)) {
      area.setRangeText(piece, area.selectionStart, area.selectionEnd, "end");
      follow();
    }
  };
  /** @param {string} value */
  const set = (value) => {
    area.focus();
    area.select();
    insert(value);
    area.setSelectionRange(value.length, value.length);
  };
  box.replaceChildren(ink, area);
  area.value = text;
  follow();
  return { area, insert, set };
};
