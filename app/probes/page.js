// The table of the page, and what is behind its figure: what the server sends, drawn.

import { behindButton } from "../shared/behind.js";
import { clientside, quietly } from "../shared/dash.js";
import { add, el } from "../shared/dom.js";
import { rowsTable } from "../shared/rows_table.js";

/** @import { Rows } from "../shared/rows_table.js" */

/** The figure as a file, which Plotly makes. @param {"png" | "svg"} format */
async function imageOf(format) {
  const graph = document.querySelector("#probes-figure .js-plotly-plot");
  if (!(graph instanceof HTMLElement)) throw new Error("the figure is not drawn yet");
  const size = { width: graph.clientWidth, height: graph.clientHeight };
  const scale = format === "png" ? 2 : 1;
  const address = await window.Plotly.toImage(graph, { format, scale, ...size });
  const [, coding, data] = /^data:[^;,]*(;base64)?[^,]*,(.*)$/s.exec(address) || [];
  const text = coding ? atob(data) : decodeURIComponent(data);
  const bytes = coding ? Uint8Array.from(text, (c) => c.charCodeAt(0)) : text;
  return new Blob([bytes], { type: format === "png" ? "image/png" : "image/svg+xml" });
}

/** @param {Rows} figure */
function headOf(figure) {
  const behind = {
    ...figure,
    rows: () => figure.rows,
    draw: null,
    image: imageOf,
    size: /** @type {[number, number]} */ ([0, 0]),
  };
  const button = behindButton(figure.title, () => behind);
  return add(el("h2", "rows-head"), el("span", "", figure.title), el("span", "spacer"), button);
}

/** @param {{rows: Rows, figure: Rows | null} | null} boot */
function mount(boot) {
  const root = document.getElementById("probes-app");
  if (!root || !boot) return;
  root.replaceChildren(rowsTable(boot.rows));
  const head = document.getElementById("probes-figure-head");
  if (head && boot.figure) head.replaceChildren(headOf(boot.figure));
}

clientside("probes", { mount: quietly(mount) });
