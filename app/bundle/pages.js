// A bundle's pages without a server: the list of traces, a trace, the usage of experts. The address
// says which: ?trace=3, ?view=routing&run=0, ?view=routing&trace=3.

import { intParam, param } from "../shared/address.js";
import "../shared/copy.js";
import { add, el, hit, inDialog, opensElsewhere, part, typing } from "../shared/dom.js";
import "../shared/glossary.js";
import { mount as mountUsage } from "../routing/view.js";
import { toggleHelp } from "../shared/help.js";
import { messageOf, plural } from "../shared/text.js";
import { theme, toggleTheme } from "../shared/theme.js";
import { mount as mountTrace } from "../trace/view.js";
import { openAbout } from "./about.js";
import { KEYS } from "./constants.js";
import { hostOf } from "./host.js";
import { traceList, verdict } from "./list.js";

/** @import { Section } from "../shared/help.js" */
/** @import { Read } from "./host.js" */
/** @import { Boot, Index, Summary } from "./types.js" */

/** @typedef {{read: Read, index: Index}} Bundle */

/** @type {Section} */
const EVERYWHERE = [
  "Everywhere",
  [
    ["?", "this help"],
    ["t", "dark or light"],
  ],
];
const help = () => toggleHelp(() => [EVERYWHERE, ...Object.entries(KEYS)]);

/**
 * Show the page that the address names, now and whenever it changes.
 * @param {Read} read
 */
export async function start(read) {
  /** @type {Bundle} */
  let bundle;
  const show = () => shown(bundle).catch(refuse);
  /** @param {string} address */
  const open = (address) => {
    window.history.pushState(null, "", address);
    return show();
  };
  try {
    bundle = { read, index: await read("data/index") };
  } catch (error) {
    return refuse(error);
  }
  window.addEventListener("popstate", show);
  document.addEventListener("click", (event) => {
    const link = hit(event, "a[href^='?']");
    if (!link || opensElsewhere(event)) return;
    event.preventDefault();
    open(link.getAttribute("href") || "?");
  });
  document.addEventListener("keydown", (event) => {
    if (typing(event) || (inDialog() && event.key !== "?")) return;
    if (event.key === "?") help();
    else if (event.key === "t") toggleTheme();
  });
  return show();

  /** @param {Bundle} of */
  async function shown({ index }) {
    const root = part("page");
    const id = intParam("trace");
    const trace = index.traces.find((each) => each.trace_id === id) ?? null;
    if (id !== null && !trace) throw new Error(`There is no trace ${id} in this bundle.`);
    const page = el("div", `page ${trace ? "trace-page" : "routing-page"}`);
    root.replaceChildren(page);
    document.title = `${trace ? `Trace ${id} · ` : ""}${index.title} · ringlens`;
    if (param("view") === "routing" || index.about === "aggregates") return usage(page, trace);
    if (!trace) return add(page, bar(index, null, "list"), traceList(index));
    return text(page, trace);
  }

  /**
   * @param {HTMLElement} page
   * @param {Summary} trace
   */
  async function text(page, trace) {
    /** @type {Boot} */
    const boot = await read(`data/trace/${trace.trace_id}/boot`);
    const frame = el("div", "trace-app", null, { id: "trace-app" });
    add(page, bar(bundle.index, trace, "text", boot), frame);
    const host = hostOf(read, open, runsOf(bundle), trace.trace_id, boot.heads_block);
    await mountTrace(frame, boot, host);
  }

  /**
   * @param {HTMLElement} page
   * @param {Summary | null} trace
   */
  async function usage(page, trace) {
    const { index } = bundle;
    const first = index.runs.findIndex((run) => run.has_routing);
    const number = intParam("run") ?? first;
    const run = index.runs[number];
    if (!trace && !run?.has_routing)
      throw new Error(`This bundle has no routing of run ${number}.`);
    const frame = el("div", "usage-app", null, { id: "usage-app" });
    add(page, bar(index, trace, "routing", null, number), frame);
    const boot = {
      usage: trace ? `/data/usage/trace/${trace.trace_id}` : `/data/usage/run/${number}`,
    };
    await mountUsage(frame, boot, hostOf(read, open, runsOf(bundle), trace?.trace_id));
  }
}

/** @param {Bundle} bundle */
const runsOf = ({ index }) => index.runs.map((run) => run.run_id);

/** @param {unknown} error */
function refuse(error) {
  const title = el("h2", "", "This cannot be shown");
  const box = add(el("div", "state"), title, el("p", "", messageOf(error)));
  part("page").replaceChildren(add(el("div", "page"), box));
}

// --- the header -----------------------------------------------------------------------------------

/**
 * @param {Index} index
 * @param {Summary | null} trace
 * @param {"list" | "text" | "routing"} view
 * @param {Boot | null} [boot]
 * @param {number} [run]
 */
function bar(index, trace, view, boot = null, run = 0) {
  const crumbs = add(
    el("div", "crumbs"),
    index.about === "traces"
      ? el("a", "", index.title, { href: "?" })
      : el("span", "", index.title),
    ...(trace ? [el("span", "dim", "/"), el("span", "", `Trace ${trace.trace_id}`)] : []),
  );
  const row = add(el("div", "crumb-row"), crumbs, buttons(index, trace, view, boot));
  const title = trace
    ? el("h1", "", trace.prompt, { title: trace.prompt })
    : el("h1", "", view === "list" ? "Traces" : "Routing");
  const heading = add(el("div", "title-row"), title, trace && verdict(trace));
  if (trace?.answer) add(heading, el("span", "answer", trace.answer, { title: trace.answer }));
  const said = trace ? factsOf(trace) : factsOfAll(index, view, run);
  const facts = add(el("div", "fact-row"), ...said.map((fact) => el("span", "", fact)));
  return add(el("header", "page-header"), row, heading, facts);
}

/** @param {Summary} trace */
const factsOf = (trace) => [
  plural(trace.tokens, "token"),
  `${trace.n_prompt} prompt`,
  `${trace.n_think} think`,
  `${trace.n_answer} answer`,
  trace.finish_reason,
  `${trace.model}, ${trace.mode}`,
];

/** @type {(index: Index, view: string, run: number) => string[]} */
function factsOfAll(index, view, run) {
  if (view === "list") return [plural(index.traces.length, "trace"), "exported from ringlens"];
  const { run_id, traces, model, mode } = index.runs[run];
  return [`run ${run_id}`, plural(traces, "trace"), `${model}, ${mode}`];
}

/**
 * @param {Index} index
 * @param {Summary | null} trace
 * @param {string} view
 * @param {Boot | null} boot
 */
function buttons(index, trace, view, boot) {
  const box = el("div", "buttons");
  /** @param {string} label @param {string} href */
  const link = (label, href) => box.appendChild(el("a", "button", label, { href }));
  const here = trace ? `&trace=${trace.trace_id}` : "";
  if (trace && view === "routing") link("Text", `?trace=${trace.trace_id}`);
  if (view === "list") {
    index.runs.forEach((run, i) => {
      const several = index.runs.length > 1 ? ` of ${run.run_id}` : "";
      if (run.has_routing) link(`Routing${several}`, `?view=routing&run=${i}`);
    });
  }
  if (index.about === "aggregates" && index.runs.length > 1) {
    index.runs.forEach((run, i) => {
      link(run.run_id, `?view=routing&run=${i}`);
    });
  }
  if (view === "text" && boot?.has_routing) link("Routing", `?view=routing${here}`);
  if (boot && boot.previous !== null) link("Previous", `?trace=${boot.previous}`);
  if (boot && boot.next !== null) link("Next", `?trace=${boot.next}`);
  /** @type {(label: string, title: string, act: () => void) => void} */
  const button = (label, title, act) => {
    const node = el("button", "button", label, { type: "button", title, "aria-label": title });
    node.addEventListener("click", act);
    box.appendChild(node);
  };
  button("About", "what this holds, and what it reveals", () => openAbout(index));
  button(theme() === "dark" ? "☀" : "☾", "dark or light (t)", toggleTheme);
  button("?", "what keys do (?)", help);
  return box;
}
