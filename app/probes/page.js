// The table of the page: what the server sends, drawn.

import { clientside, quietly } from "../shared/dash.js";
import { rowsTable } from "../shared/rows_table.js";

/** @param {import("../shared/rows_table.js").Rows | null} boot */
function mount(boot) {
  const root = document.getElementById("probes-app");
  if (root && boot) root.replaceChildren(rowsTable(boot));
}

clientside("probes", { mount: quietly(mount) });
