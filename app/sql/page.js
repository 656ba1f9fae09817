// The SQL page: runs what is in the editor and shows what comes back.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const TEXTUAL = /^(list|fixed|struct|tuple|map|blob|bit|variant|geometry)/;
  const SAVED = "ringlens-sql-saved";
  const $ = (id) => document.getElementById(id);
  const set = (id, props) => window.dash_clientside.set_props(id, props);
  let boot = null;
  let editor = null;
  let running = null; // the query under way: {name, started, timer}
  let result = null; // the last answer

  const post = (path, body) => rl.fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });

  // --- running ---
  async function run(chart) {
    const query = editor.area.value;
    if (running || !query.trim()) return;
    const name = `${Date.now()}-${Math.random()}`;
    running = { name, started: performance.now(), timer: setInterval(tick, 100) };
    // The chart of another query means nothing for this one.
    if (query !== rl.param("q")) rl.setParams({ q: query, kind: null, x: null, y: null, by: null });
    busy(true);
    if (!result) note("");
    tick();
    try {
      result = { ...(await post("/data/sql/run", { query, name })), query: query.trim() };
      $("sql-python").dataset.copy = python();
      show(chart);
    } catch (error) {
      fail(error.message);
    } finally {
      clearInterval(running.timer);
      running = null;
      busy(false);
    }
  }

  function cancel() {
    if (running) post("/data/sql/cancel", { name: running.name }).catch(() => {});
  }

  function tick() {
    const seconds = (performance.now() - running.started) / 1000;
    if (seconds < 0.25) return;
    status(`running, ${seconds.toFixed(1)} s`);
    if (!result) note("Running…", "quiet");
  }

  function busy(on) {
    if (!$("sql-page")) return;
    $("sql-run").disabled = on;
    $("sql-cancel").hidden = !on;
    $("sql-page").classList.toggle("busy", on);
  }

  const status = (text, kind) => {
    const node = $("sql-status");
    if (!node) return;
    node.textContent = text;
    node.className = "sql-status " + (kind || "");
  };

  // --- what comes back ---
  function show(chart) {
    if (!$("sql-page")) return;
    const count = result.rows.length;
    const time = result.seconds < 1 ? `${Math.max(1, Math.round(1000 * result.seconds))} ms` : `${result.seconds.toFixed(1)} s`;
    const rows = `${count.toLocaleString("en")} ${count === 1 ? "row" : "rows"}`;
    if (result.cut) status(`first ${rows} in ${time}; the answer is longer than ${result.cut === "rows" ? "that" : "may be sent"}`, "warn");
    else status(`${rows} in ${time}`);
    note(count ? null : "The query works and gives no rows.");
    set("sql-grid", { columnDefs: columns(), rowData: rows_() });
    for (const form of ["csv", "parquet"]) {
      const link = $(`sql-${form}`);
      link.href = rl.url(`/data/sql/result/${result.id}.${form}`);
      link.setAttribute("download", `ringlens.${form}`);
      link.classList.remove("disabled");
    }
    charting(chart);
    view(rl.param("view") || "table");
  }

  const rows_ = () => result.rows.map((row) => Object.fromEntries(row.map((value, i) => [`c${i}`, value])));

  // Columns that say where in its trace a row is, for a link there; null where there is no trace.
  function token(column) {
    if (column.name !== "trace_id" || !column.number) return null;
    const at = (name) => result.columns.findIndex((each) => each.name === name && each.number);
    return { tok: at("pos"), L: at("layer") };
  }

  // Numbers that JavaScript would round come as text: they are sorted as numbers all the same.
  const byNumber = (a, b) => {
    if (a === null || b === null) return (a !== null) - (b !== null);
    const [x, y] = [a, b].map((each) => Number(String(each).replace(/inf$/, "Infinity")));
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    if (x !== y || Number.isSafeInteger(x) || !/^-?\d+$/.test(a) || !/^-?\d+$/.test(b)) return x < y ? -1 : x > y ? 1 : 0;
    return BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0;
  };

  function columns() {
    return result.columns.map((column, i) => {
      let longest = column.name.length + 2;
      for (let r = 0; r < Math.min(200, result.rows.length); r++) {
        const value = result.rows[r][i];
        longest = Math.max(longest, value === null ? 4 : String(value).length);
      }
      return {
        field: `c${i}`, headerName: column.name, headerTooltip: `${column.name}: ${column.type}`,
        width: Math.round(Math.min(460, Math.max(76, 7.8 * longest + 32))),
        ...(column.number ? { type: "rightAligned", cellClass: "num ag-right-aligned-cell", comparator: byNumber } : {}),
        ...(TEXTUAL.test(column.type) ? { cellClass: "mono dim" } : {}),
        cellRenderer: "SqlCell", cellRendererParams: { token: token(column) }, tooltipField: longest > 60 ? `c${i}` : undefined,
      };
    });
  }

  function fail(message) {
    if (!$("sql-page")) return;
    result = null;
    status("", "");
    note(message, message === "the query was cancelled" ? "quiet" : "error");
    for (const form of ["csv", "parquet"]) {
      $(`sql-${form}`).removeAttribute("href");
      $(`sql-${form}`).classList.add("disabled");
    }
    $("sql-rows").hidden = $("sql-drawn").hidden = true;
  }

  function note(text, kind) {
    const box = $("sql-note");
    box.className = "sql-note " + (kind || "");
    if (!text) return box.replaceChildren();
    const sentence = text.charAt(0).toUpperCase() + text.slice(1);
    box.replaceChildren(rl.el("p", "", sentence, kind === "error" ? { role: "alert" } : {}));
  }

  // Before the first query: what could be asked.
  function invite() {
    const box = $("sql-note");
    box.className = "sql-note invite";
    const list = rl.el("div", "sql-cards");
    for (const each of boot.examples) {
      const card = rl.el("button", "sql-card", null, { type: "button" });
      rl.add(card, rl.el("b", "", each.name), rl.el("pre", "", null));
      rl.colourSql(card.lastChild, each.query);
      card.addEventListener("click", () => example(each));
      list.appendChild(card);
    }
    box.replaceChildren(rl.el("h2", "", "Ask the store"),
      rl.el("p", "dim", "Read-only, in DuckDB's SQL. Type a query, or begin with one of these."), list);
  }

  function example(each) {
    editor.set(each.query);
    run(each.chart);
  }

  // --- table or chart ---
  function view(name) {
    if (!$("sql-rows")) return;
    const drawn = name === "chart";
    const some = result && result.rows.length > 0;
    $("sql-rows").hidden = !some || drawn;
    $("sql-drawn").hidden = !some || !drawn;
    if (some && drawn) window.dispatchEvent(new Event("resize")); // plotly drew into a hidden box
  }

  // The chart's choices: those of the address, of the example, or a guess from the columns.
  function charting(chart) {
    const names = result.columns.map((column) => column.name);
    const simple = result.columns.filter((column) => !TEXTUAL.test(column.type)).map((c) => c.name);
    const numbers = result.columns.filter((column) => column.number).map((column) => column.name);
    const asked = ["kind", "x", "y", "by"].map((name) => rl.param(name));
    const [kind, x, y, by] = asked[1] ? asked : chart || guess(simple, numbers);
    const has = (name) => (names.includes(name) ? name : null);
    const options = [...new Set(simple)];
    set("sql-x", { data: options, value: has(x) });
    set("sql-y", { data: [...new Set(numbers)], value: has(y) });
    set("sql-by", { data: options, value: has(by) });
    set("sql-kind", { value: kind });
    set("sql-result", { data: result.id });
  }

  function guess(simple, numbers) {
    const x = simple[0];
    const y = [...numbers].reverse().find((name) => name !== x);
    if (!y) return ["histogram", x, null, null];
    const ordered = numbers.includes(x) && result.rows.length > 20;
    return [ordered ? "line" : "bar", x, y, null];
  }

  // --- saved queries, kept by this browser ---
  const saved = () => {
    try {
      const found = JSON.parse(window.localStorage.getItem(SAVED) || "[]");
      return Array.isArray(found) ? found.filter((each) => each && typeof each.query === "string") : [];
    } catch {
      return [];
    }
  };
  const keep = (list) => {
    window.localStorage.setItem(SAVED, JSON.stringify(list));
    listSaved();
  };

  // Named by its first comment, or else by how it begins.
  const title = (query) => {
    const comment = query.match(/^\s*--\s*(.+)/);
    return (comment ? comment[1] : query.replace(/\s+/g, " ")).trim().slice(0, 80);
  };

  function save() {
    const query = editor.area.value.trim();
    if (!query) return;
    keep([{ name: title(query), query }, ...saved().filter((each) => each.query !== query)].slice(0, 50));
    const button = $("sql-save");
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  }

  function listSaved() {
    const box = $("sql-saved");
    const entry = (each, mine) => {
      const row = rl.el("div", "sql-entry");
      const open = rl.el("button", "", each.name, { type: "button", title: each.query });
      open.addEventListener("click", () => example(each));
      row.appendChild(open);
      if (mine) {
        const drop = rl.el("button", "sql-drop", "×", { type: "button", "aria-label": `Forget ${each.name}` });
        drop.addEventListener("click", () => keep(saved().filter((other) => other.query !== each.query)));
        row.appendChild(drop);
      }
      return row;
    };
    const list = saved();
    const parts = list.length ? [rl.el("h3", "", "Saved"), ...list.map((each) => entry(each, true))] : [];
    parts.push(rl.el("h3", "", "Examples"), ...boot.examples.map((each) => entry(each, false)));
    box.replaceChildren(...parts);
  }

  const python = () => {
    const query = editor.area.value.trim();
    const quoted = /[\\"]/.test(query) ? `r'''\n${query}\n'''` : `"""\n${query}\n"""`;
    // What pandas has no type for is asked for as text.
    const frame = result && result.query === query ? result.frame : "df()";
    return `import ringlens as rl\n\nstore = rl.Store(${JSON.stringify(boot.store)})\nframe = store.sql(${quoted}).${frame}\n`;
  };

  // --- wiring ---
  document.addEventListener("click", (event) => {
    if (!$("sql-page") || !event.target.closest) return;
    const insert = event.target.closest("[data-insert]");
    if (insert) {
      event.preventDefault();
      const at = editor.area.value.slice(0, editor.area.selectionStart);
      editor.insert((/[\w"]$/.test(at) ? ", " : "") + insert.dataset.insert);
    } else if (event.target.closest("#sql-run")) run();
    else if (event.target.closest("#sql-cancel")) cancel();
    else if (event.target.closest("#sql-save")) save();
  });

  document.addEventListener("input", (event) => {
    if (event.target.id !== "sql-find") return;
    const wanted = event.target.value.trim().toLowerCase();
    for (const table of document.querySelectorAll(".sql-table")) {
      const hit = table.dataset.names.includes(wanted);
      table.hidden = !hit;
      table.open = Boolean(wanted) && hit;
      for (const column of table.querySelectorAll(".sql-column")) {
        const own = table.dataset.names.split(" ")[0].includes(wanted);
        column.hidden = !own && !column.dataset.insert.includes(wanted);
      }
    }
  });

  document.addEventListener("keydown", (event) => {
    if (!$("sql-page") || !editor || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    } else if (event.key === "Escape") {
      if (running) cancel();
      else if (document.activeElement) document.activeElement.blur();
    } else if (event.key === "e" && !rl.typing(event)) {
      event.preventDefault();
      editor.area.focus();
    } else if (event.key === "v" && !rl.typing(event) && result) {
      set("sql-view", { value: $("sql-rows").hidden ? "table" : "chart" });
    }
  });

  const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  cells.SqlCell = ({ value, data, colDef }) => {
    if (value === null || value === undefined) {
      return window.React.createElement("span", { className: "sql-null" }, "null");
    }
    const token = colDef.cellRendererParams.token;
    if (!token) return String(value);
    const where = new URLSearchParams();
    for (const [name, i] of Object.entries(token)) {
      const found = data[`c${i}`];
      if (found !== undefined && found !== null) where.set(name, found);
    }
    const href = `/trace/${value}${where.size ? "?" + where : ""}`;
    const onClick = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      rl.go(href);
    };
    return window.React.createElement("a", { href: rl.url(href), className: "sql-link", onClick }, String(value));
  };

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.sql = {
    mount(data) {
      const box = $("sql-editor");
      if (!data || !box || box.firstChild) return window.dash_clientside.no_update;
      boot = data;
      result = running = null;
      editor = rl.sqlEditor(box, box.dataset.query, () => {
        const button = $("sql-python");
        if (button && editor) button.dataset.copy = python();
      });
      $("sql-python").dataset.copy = python();
      listSaved();
      set("sql-view", { value: rl.param("view") === "chart" ? "chart" : "table" });
      if (box.dataset.query.trim()) run();
      else {
        invite();
        editor.area.focus();
      }
      return window.dash_clientside.no_update;
    },
    view(name) {
      rl.setParams({ view: name === "chart" ? "chart" : null });
      view(name);
      return window.dash_clientside.no_update;
    },
    // What the chart shows is part of the address, so that it can be passed on.
    choices(kind, x, y, by) {
      if (result && x) rl.setParams({ kind, x, y, by });
      return window.dash_clientside.no_update;
    },
  };
})();
