// The SQL page: runs what is in the editor and shows what comes back.

import { param, setParams, url } from "../shared/address.js";
import { clientside, quietly, setProps } from "../shared/dash.js";
import { add, el, hit, inDialog, part, typing } from "../shared/dom.js";
import { fetchJson } from "../shared/host.js";
import { messageOf, plural } from "../shared/text.js";
import { colourSql, sqlEditor, WORDS } from "./editor.js";
import { columnsOf, isSimple, rowsOf } from "./grid.js";
import { forget, save, saved } from "./saved.js";
import { filterTables, listTables } from "./tables.js";

/** @import { Table } from "./completion.js" */
/** @import { Editor } from "./editor.js" */
/** @import { Answer } from "./grid.js" */

/**
 * A chart of an answer: its kind, and the columns of x, y and colour.
 * @typedef {[string, string | null, string | null, string | null]} Chart
 */
/** @typedef {{name: string, query: string, chart?: Chart | null}} Example */
/**
 * @typedef {{store: string, seconds: number, rows: number, examples: Example[], tables: Table[],
 *   functions: string[]}} Boot
 */

const FORMS = ["csv", "parquet"];

/** @type {Boot} */
let boot;
/** @type {Editor} */
let editor;
/** @type {{name: string, started: number, timer: number} | null} */
let running = null; // the query under way
/** @type {Answer | null} */
let answer = null; // the last one

const isOpen = () => document.getElementById("sql-page") !== null;

/**
 * @param {string} path
 * @param {unknown} body
 */
const post = (path, body) =>
  fetchJson(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

// --- running --------------------------------------------------------------------------------------

/** @param {Chart | null} [chart] */
async function run(chart) {
  const query = editor.area.value;
  if (running || !query.trim()) return;
  const name = `${Date.now()}-${Math.random()}`;
  const mine = { name, started: performance.now(), timer: window.setInterval(tick, 100) };
  running = mine;
  // The chart of another query means nothing for this one.
  if (query !== param("q")) setParams({ q: query, kind: null, x: null, y: null, by: null });
  busy(true);
  if (!answer) note("");
  try {
    answer = { ...(await post("/data/sql/run", { query, name })), query: query.trim() };
    part("sql-python").dataset.copy = python();
    show(/** @type {Answer} */ (answer), chart);
  } catch (error) {
    fail(messageOf(error));
  } finally {
    window.clearInterval(mine.timer);
    running = null;
    busy(false);
  }
}

function cancel() {
  if (running) post("/data/sql/cancel", { name: running.name }).catch(() => {});
}

function tick() {
  if (!running) return;
  const seconds = (performance.now() - running.started) / 1000;
  if (seconds < 0.25) return;
  status(`running, ${seconds.toFixed(1)} s`);
  if (!answer) note("Running…", "quiet");
}

/** @param {boolean} on */
function busy(on) {
  if (!isOpen()) return;
  part("sql-run").toggleAttribute("disabled", on);
  part("sql-cancel").hidden = !on;
  part("sql-page").classList.toggle("busy", on);
}

/**
 * @param {string} text
 * @param {string} [kind]
 */
function status(text, kind) {
  const node = document.getElementById("sql-status");
  if (!node) return;
  node.textContent = text;
  node.title = text;
  node.className = `sql-status ${kind || ""}`;
}

// --- what comes back ------------------------------------------------------------------------------

/**
 * @param {Answer} found
 * @param {Chart | null} [chart]
 */
function show(found, chart) {
  if (!isOpen()) return;
  const rows = plural(found.rows.length, "row");
  const time =
    found.seconds < 1
      ? `${Math.max(1, Math.round(1000 * found.seconds))} ms`
      : `${found.seconds.toFixed(1)} s`;
  const most = found.cut === "rows" ? "that" : "may be sent";
  if (found.cut) status(`first ${rows} in ${time}; the answer is longer than ${most}`, "warn");
  else status(`${rows} in ${time}`);
  note(found.rows.length ? null : "The query works and gives no rows.");
  setProps("sql-grid", { columnDefs: columnsOf(found), rowData: rowsOf(found) });
  for (const form of FORMS) {
    const link = part(`sql-${form}`);
    link.setAttribute("href", url(`/data/sql/result/${found.id}.${form}`));
    link.setAttribute("download", `ringlens.${form}`);
    link.classList.remove("disabled");
  }
  charting(found, chart);
  view(param("view") || "table");
}

/** @param {string} message */
function fail(message) {
  if (!isOpen()) return;
  answer = null;
  status("", "");
  note(message, message === "the query was cancelled" ? "quiet" : "error");
  for (const form of FORMS) {
    part(`sql-${form}`).removeAttribute("href");
    part(`sql-${form}`).classList.add("disabled");
  }
  part("sql-rows").hidden = true;
  part("sql-drawn").hidden = true;
}

/**
 * @param {string | null} text
 * @param {string} [kind]
 */
function note(text, kind) {
  const box = part("sql-note");
  box.className = `sql-note ${kind || ""}`;
  if (!text) return box.replaceChildren();
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  box.replaceChildren(el("p", "", sentence, kind === "error" ? { role: "alert" } : {}));
}

/** Before the first query: what could be asked. */
function invite() {
  const box = part("sql-note");
  box.className = "sql-note invite";
  const list = el("div", "sql-cards");
  for (const each of boot.examples) {
    const card = el("button", "sql-card", null, { type: "button" });
    const query = el("pre");
    colourSql(query, each.query);
    add(card, el("b", "", each.name), query);
    card.addEventListener("click", () => example(each));
    list.appendChild(card);
  }
  box.replaceChildren(
    el("h2", "", "Ask the store"),
    el("p", "dim", "Read-only, in DuckDB's SQL. Type a query, or begin with one of these."),
    list,
  );
}

/** @param {Example} each */
function example(each) {
  editor.set(each.query);
  run(each.chart);
}

// --- table or chart -------------------------------------------------------------------------------

/** @param {string} name */
function view(name) {
  if (!isOpen()) return;
  const drawn = name === "chart";
  const some = answer !== null && answer.rows.length > 0;
  part("sql-rows").hidden = !some || drawn;
  part("sql-drawn").hidden = !some || !drawn;
  if (some && drawn) window.dispatchEvent(new Event("resize")); // plotly drew into a hidden box
}

/**
 * The chart's choices: those of the address, of the example, or a guess from the columns.
 * @param {Answer} found
 * @param {Chart | null} [chart]
 */
function charting(found, chart) {
  const names = found.columns.map((column) => column.name);
  const simple = found.columns.filter(isSimple).map((column) => column.name);
  const numbers = found.columns.filter((column) => column.number).map((column) => column.name);
  const asked = ["kind", "x", "y", "by"].map((name) => param(name));
  const [kind, x, y, by] = asked[1] ? asked : chart || guess(found, simple, numbers);
  /** @param {string | null} name */
  const has = (name) => (name !== null && names.includes(name) ? name : null);
  const options = [...new Set(simple)];
  setProps("sql-x", { data: options, value: has(x) });
  setProps("sql-y", { data: [...new Set(numbers)], value: has(y) });
  setProps("sql-by", { data: options, value: has(by) });
  setProps("sql-kind", { value: kind });
  setProps("sql-result", { data: found.id });
}

/**
 * @param {Answer} found
 * @param {string[]} simple
 * @param {string[]} numbers
 * @returns {Chart}
 */
function guess(found, simple, numbers) {
  const x = simple[0];
  const y = [...numbers].reverse().find((name) => name !== x);
  if (!y) return ["histogram", x, null, null];
  const ordered = numbers.includes(x) && found.rows.length > 20;
  return [ordered ? "line" : "bar", x, y, null];
}

// --- queries to begin with ------------------------------------------------------------------------

function keep() {
  const query = editor.area.value.trim();
  if (!query) return;
  save(query);
  listQueries();
  const button = part("sql-save");
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

/**
 * @param {Example} each
 * @param {boolean} mine
 */
function entry(each, mine) {
  const row = el("div", "sql-entry");
  const button = el("button", "", each.name, { type: "button", title: each.query });
  button.addEventListener("click", () => example(each));
  row.appendChild(button);
  if (mine) {
    const label = { type: "button", "aria-label": `Forget ${each.name}` };
    const drop = el("button", "sql-drop", "×", label);
    drop.addEventListener("click", () => {
      forget(each.query);
      listQueries();
    });
    row.appendChild(drop);
  }
  return row;
}

function listQueries() {
  const mine = saved().map((each) => entry(each, true));
  const parts = mine.length ? [el("h3", "", "Saved"), ...mine] : [];
  const others = boot.examples.map((each) => entry(each, false));
  part("sql-saved").replaceChildren(...parts, el("h3", "", "Examples"), ...others);
}

function python() {
  const query = editor.area.value.trim();
  const quoted = /[\\"]/.test(query) ? `r'''\n${query}\n'''` : `"""\n${query}\n"""`;
  // What pandas has no type for is asked for as text.
  const frame = answer && answer.query === query ? answer.frame : "df()";
  const store = `store = rl.Store(${JSON.stringify(boot.store)})`;
  return `import ringlens as rl\n\n${store}\nframe = store.sql(${quoted}).${frame}\n`;
}

// --- wiring ---------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  if (!isOpen()) return;
  const insert = hit(event, "[data-insert]");
  if (insert) {
    event.preventDefault();
    const before = editor.area.value.slice(0, editor.area.selectionStart);
    editor.insert((/[\w"]$/.test(before) ? ", " : "") + insert.dataset.insert);
  } else if (hit(event, "#sql-run")) run();
  else if (hit(event, "#sql-cancel")) cancel();
  else if (hit(event, "#sql-save")) keep();
});

document.addEventListener("input", (event) => {
  const field = event.target;
  if (!(field instanceof HTMLInputElement) || field.id !== "sql-find") return;
  filterTables(field.value.trim().toLowerCase());
});

document.addEventListener("keydown", (event) => {
  if (!isOpen() || !editor || inDialog()) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") {
    if (running) cancel();
    else if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  } else if (event.key === "e" && !typing(event)) {
    event.preventDefault();
    editor.area.focus();
  } else if (event.key === "v" && !typing(event) && answer) {
    setProps("sql-view", { value: part("sql-rows").hidden ? "table" : "chart" });
  }
});

/** @param {Boot | null} data */
function mount(data) {
  const box = document.getElementById("sql-editor");
  if (!data || !box || box.firstChild) return;
  boot = data;
  answer = null;
  running = null;
  const query = box.dataset.query || "";
  const copy = () => {
    const button = document.getElementById("sql-python");
    if (button && editor) button.dataset.copy = python();
  };
  const names = { tables: data.tables, functions: data.functions, keywords: [...WORDS] };
  editor = sqlEditor(box, query, names, copy);
  copy();
  listTables(data.tables);
  listQueries();
  setProps("sql-view", { value: param("view") === "chart" ? "chart" : "table" });
  if (query.trim()) run();
  else {
    invite();
    editor.area.focus();
  }
}

clientside("sql", {
  mount: quietly(mount),
  view: quietly((name) => {
    setParams({ view: name === "chart" ? "chart" : null });
    view(name);
  }),
  // What the chart shows is part of the address, so that it can be passed on.
  choices: quietly((kind, x, y, by) => {
    if (answer && x) setParams({ kind, x, y, by });
  }),
});
