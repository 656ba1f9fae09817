// What is behind a chart: its numbers as a table, the SQL and the Python that give the same ones,
// and the chart as a file.

import { csvOf, save } from "./csv.js";
import { add, el } from "./dom.js";
import { svgOf } from "./surface.js";
import { number, plural } from "./text.js";

/** @import { Cell } from "./csv.js" */
/** @import { Surface } from "./surface.js" */

/**
 * SQL and Python of numbers (made.py); where SQL cannot say it, there is none.
 * @typedef {{sql?: string, python: string}} Made
 */

/**
 * @typedef {object} Behind
 * @property {string} title
 * @property {string} name Of its files.
 * @property {string} about One sentence: what the numbers are, with their unit.
 * @property {string[]} columns
 * @property {() => Cell[][]} rows
 * @property {Made | null} made
 * @property {((surface: Surface, width: number, height: number) => void) | null} draw
 * @property {((format: "png" | "svg") => Promise<Blob>) | null} [image] Makes the chart as a file,
 *   where it is not drawn on a surface.
 * @property {[number, number]} size Of the chart as a file, in CSS pixels.
 */

const SHOWN = 400; // rows of the table on the page; the file has all
const SCALE = 2; // pixels of a PNG for one of the page

const background = () =>
  getComputedStyle(document.documentElement).getPropertyValue("--surface").trim() || "#fff";

/** @param {Cell} value */
const shown = (value) => {
  if (value === null) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : number(value, 4);
};

/**
 * The order of two cells: numbers by size, texts by letters.
 * @param {Cell} a
 * @param {Cell} b
 */
function order(a, b) {
  return typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b));
}

/**
 * A table that a click on a heading sorts: largest first, then smallest first.
 * @param {Behind} behind
 */
function tableOf({ columns, rows }) {
  const all = rows();
  const body = el("tbody");
  /** @param {Cell[][]} some */
  const fill = (some) => {
    const shownRows = some.slice(0, SHOWN).map((row) => {
      const cells = row.map((value) =>
        el("td", typeof value === "number" ? "num" : "", shown(value)),
      );
      return add(el("tr"), ...cells);
    });
    body.replaceChildren(...shownRows);
  };
  const head = el("tr");
  columns.forEach((name, column) => {
    const cell = el("th", "", null, { scope: "col" });
    const button = el("button", "", name, { type: "button", title: "sort" });
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") !== "descending";
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = all.filter((row) => row[column] !== null);
      const sorted = known.toSorted((x, y) => order(x[column], y[column]) * (down ? -1 : 1));
      fill([...sorted, ...all.filter((row) => row[column] === null)]);
    });
    head.appendChild(add(cell, button));
  });
  fill(all);
  const table = add(el("table", "plain-table"), add(el("thead"), head), body);
  const box = el("div", "behind-table", null, { tabindex: "0", role: "region" });
  box.setAttribute("aria-label", "Table");
  const more = all.length - SHOWN;
  const note =
    more > 0
      ? `The first ${SHOWN} of ${plural(all.length, "row")}; the CSV has all.`
      : plural(all.length, "row");
  return add(box, table, el("p", "dim", note));
}

/** @param {string} text */
function codeOf(text) {
  const copy = el("button", "copy", "Copy", { type: "button", "data-copy": text });
  const code = el("code", "", text);
  const block = add(el("pre", "behind-code", null, { tabindex: "0" }), code);
  return add(el("div", "behind-text"), copy, block);
}

/**
 * The parts of the dialog: names, and what makes each.
 * @param {Behind} behind
 * @returns {[string, () => HTMLElement][]}
 */
function partsOf(behind) {
  /** @type {[string, () => HTMLElement][]} */
  const parts = [["Table", () => tableOf(behind)]];
  const { made } = behind;
  if (made?.sql) parts.push(["SQL", () => codeOf(made.sql || "")]);
  if (made) parts.push(["Python", () => codeOf(made.python)]);
  return parts;
}

/** @param {Behind} behind */
async function savePng({ draw, size, name }) {
  if (!draw) return;
  const canvas = el("canvas");
  canvas.width = size[0] * SCALE;
  canvas.height = size[1] * SCALE;
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser gives no canvas to draw on");
  context.scale(SCALE, SCALE);
  context.fillStyle = background();
  context.fillRect(0, 0, ...size);
  draw(context, ...size);
  canvas.toBlob((blob) => blob && save(`${name}.png`, blob), "image/png");
}

/** @param {Behind} behind */
function exports(behind) {
  const { draw, image, size, title, name, columns, rows } = behind;
  /** @type {(label: string, act: () => void) => HTMLElement} */
  const button = (label, act) => {
    const found = el("button", "button", label, { type: "button" });
    found.addEventListener("click", act);
    return found;
  };
  const svg = () => {
    if (!draw) return;
    const text = svgOf(draw, ...size, title, background());
    save(`${name}.svg`, new Blob([text], { type: "image/svg+xml" }));
  };
  const csv = () => save(`${name}.csv`, new Blob([csvOf(columns, rows())], { type: "text/csv" }));
  const link = el("button", "button", "Copy link", { type: "button" });
  link.dataset.copy = window.location.href;
  /** @type {(format: "png" | "svg") => Promise<void>} */
  const made = async (format) => {
    if (image) save(`${name}.${format}`, await image(format));
  };
  const charts = draw
    ? [button("PNG", () => savePng(behind)), button("SVG", svg)]
    : image
      ? [button("PNG", () => made("png")), button("SVG", () => made("svg"))]
      : [];
  return add(el("div", "buttons"), ...charts, button("CSV", csv), link);
}

/**
 * Open the dialog.
 * @param {Behind} behind
 */
export function openBehind(behind) {
  document.getElementById("behind")?.remove();
  const dialog = el("dialog", "behind", null, { id: "behind", "aria-label": behind.title });
  const body = el("div", "behind-body");
  const tabs = el("div", "segments", null, { role: "group", "aria-label": "What is shown" });
  const parts = partsOf(behind);
  /** @param {string} name */
  const show = (name) => {
    const made = parts.find((part) => part[0] === name);
    body.replaceChildren(...(made ? [made[1]()] : []));
    for (const tab of tabs.querySelectorAll("button")) {
      tab.setAttribute("aria-pressed", String(tab.textContent === name));
    }
  };
  for (const [name] of parts) {
    const tab = el("button", "", name, { type: "button", "aria-pressed": "false" });
    tab.addEventListener("click", () => show(name));
    tabs.appendChild(tab);
  }
  const close = el("button", "behind-close", "×", { type: "button", "aria-label": "Close" });
  close.addEventListener("click", () => dialog.close());
  const head = add(el("div", "behind-head"), el("h2", "", behind.title), close);
  const bar = add(el("div", "behind-bar"), tabs, el("span", "spacer"), exports(behind));
  add(dialog, head, el("p", "dim", behind.about), bar, body);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.appendChild(dialog);
  show(parts[0][0]);
  dialog.showModal();
}

/**
 * A small button that opens it.
 * @param {string} what Name of the chart.
 * @param {() => Behind | null} behind
 */
export function behindButton(what, behind) {
  const said = `Behind “${what}”: table, SQL, Python, files`;
  const button = el("button", "behind-button", "⋯", { type: "button", title: said });
  button.setAttribute("aria-label", said);
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    const found = behind();
    if (found) openBehind(found);
  });
  return button;
}
