// The parts of an expert's card, each with what is behind its numbers.

import { behindButton } from "../shared/behind.js";
import * as colours from "../shared/colours.js";
import { PHASES } from "../shared/constants.js";
import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { link } from "../shared/host.js";
import { barsChart, ranked } from "../shared/ranked.js";
import { number, percent, plural, visible } from "../shared/text.js";

/** @import { Behind, Made } from "../shared/behind.js" */
/** @import { Cell } from "../shared/csv.js" */
/** @import { Bar, Column } from "../shared/ranked.js" */
/** @import { Boot, Company, Displacement, Parts } from "./types.js" */

const SHOWN = 12; // rows of a part

/** @type {(value: number | null) => string} */
const percentOr = (value) => (value === null ? "not recorded" : percent(value));
/** @type {(value: number | null, digits: number) => string} */
const numberOr = (value, digits) => (value === null ? "–" : number(value, digits));

const accent = () => colours.line("attention");

/**
 * A part: a heading, what it shows, and what is behind it.
 * @param {string} title
 * @param {string} term
 * @param {string} className
 * @param {Behind | null} behind
 * @param {...(Node | null)} children
 */
function part(title, term, className, behind, ...children) {
  const node = el("section", `card ${className}`, null, { "aria-label": title });
  const words = el("span", "", title);
  const head = add(el("h2", "card-title"), term ? termed(words, term) : words);
  if (behind) head.appendChild(behindButton(title, () => behind));
  return add(node, head, ...children);
}

/** @param {string} text */
const nothing = (text) => el("p", "dim", text);

/**
 * Rows of a phase, or of all.
 * @template {{phase: string}} R
 * @param {R[]} rows
 * @param {string} phase
 */
const inPhase = (rows, phase) => rows.filter((r) => phase === "all" || r.phase === phase);

/**
 * What is behind a part.
 * @template R
 * @param {Boot} boot
 * @param {string} title
 * @param {string} about
 * @param {R[]} rows
 * @param {[string, (row: R) => Cell][]} columns
 * @param {Made | null} made
 * @param {{label: string, text: string, bar: Bar}[]} bars
 * @returns {Behind}
 */
function behindOf(boot, title, about, rows, columns, made, bars) {
  const [draw, size] = barsChart(bars);
  return {
    title: `${title} of L${boot.layer} E${boot.expert}`,
    name: `expert-${boot.layer}-${boot.expert}-${title.toLowerCase().replace(/\W+/g, "-")}`,
    about,
    columns: columns.map(([name]) => name),
    rows: () => rows.map((row) => columns.map(([, value]) => value(row))),
    made,
    draw: bars.length ? draw : null,
    size,
  };
}

/** @type {(value: number, top: number, colour?: string) => Bar} */
const upTo = (value, top, colour) => ({
  from: 0,
  to: Math.min(1, value / (top || 1)),
  colour: colour || accent(),
});

/**
 * A part of the card: what it is made of, and how it is drawn.
 * @typedef {object} Slot
 * @property {keyof Parts} from
 * @property {string} title
 * @property {string} className
 * @property {(data: any, boot: Boot, phase: string) => HTMLElement} draw
 */

/** @type {Slot[]} */
export const SLOTS = [
  { from: "label", title: "What it is for", className: "wide", draw: labelPart },
  { from: "load", title: "Load", className: "", draw: loadPart },
  { from: "causes", title: "Why it was chosen", className: "", draw: causesPart },
  { from: "roles", title: "Steps it works in", className: "", draw: rolesPart },
  { from: "tokens", title: "Words it serves", className: "", draw: wordsPart },
  { from: "company", title: "Experts beside it", className: "", draw: companyPart },
  { from: "causes", title: "What the group limit did", className: "", draw: standInsPart },
  { from: "contexts", title: "Where it weighs most", className: "wide", draw: contextsPart },
  { from: "ablation", title: "Without it", className: "wide", draw: ablationPart },
];

/**
 * A part that is not here yet, or could not be read.
 * @param {Slot} slot
 * @param {string | null} error
 */
export const waiting = ({ title, className }, error) =>
  part(
    title,
    "",
    `${className} ${error ? "" : "pending"}`,
    null,
    el("p", error ? "error" : "dim", error || "Reading…"),
  );

/** @param {{label: string, by: string}} said */
const saidLabel = ({ label, by }) =>
  add(el("p", "said-label", label), document.createTextNode(" "), el("span", "said-by", by));

/**
 * @param {Parts["label"]} label
 * @param {Boot} boot
 */
function labelPart(label, boot) {
  const text = add(el("div"), ...label.said.map(saidLabel));
  if (label.said.length) text.appendChild(el("span", "label", "Automatic label"));
  text.appendChild(el("p", label.said.length ? "" : "label-text", label.text));
  const facts = el("div", "facts");
  for (const [name, value] of /** @type {[string, number | null][]} */ ([
    ["F1", label.f1],
    ["precision", label.precision],
    ["recall", label.recall],
  ])) {
    add(facts, add(el("div", "fact"), el("span", "dim", name), el("b", "", numberOr(value, 2))));
  }
  const others = label.split === "problem" ? "of other problems, " : "";
  const half =
    `Chosen on ${plural(label.traces[0], "trace")}; scored on ${plural(label.contexts, "context")} ` +
    `of ${label.traces[1]} others, ${others}half of which chose it.`;
  const scale = "A label that fits everything has an F1 of 0.67.";
  const note = label.f1 === null ? `Not scored: ${label.reason}.` : `${half} ${scale}`;
  return part(
    "What it is for",
    "expert label",
    "wide",
    behindOf(
      boot,
      "Label",
      "A rule that tells the contexts of the expert from others, and how well it does elsewhere.",
      [label],
      [
        ["label", (row) => row.text],
        ["F1", (row) => row.f1],
        ["precision", (row) => row.precision],
        ["recall", (row) => row.recall],
        ["contexts", (row) => row.contexts],
      ],
      label.made,
      [],
    ),
    text,
    label.f1 === null ? null : facts,
    el("p", "dim", note),
  );
}

/**
 * @param {Parts["load"]} data
 * @param {Boot} boot
 */
function loadPart({ rows: load, made }, boot) {
  const even = boot.k / boot.experts;
  const top = Math.max(even * 1.2, ...load.map((row) => row.share ?? 0));
  const sorted = [...load].sort((a, b) => PHASES.indexOf(a.phase) - PHASES.indexOf(b.phase));
  /** @param {(typeof load)[0]} row */
  const bar = (row) => ({
    ...upTo(row.share ?? 0, top, colours.phaseLine(PHASES.indexOf(row.phase))),
    mark: even / top,
  });
  /** @type {Column<(typeof load)[0]>[]} */
  const columns = [
    { label: "Phase", term: "phase", show: (row) => row.phase },
    { label: "Of tokens", term: "share", bar, show: (row) => percentOr(row.share) },
    { label: "× even", number: true, show: (row) => numberOr(row.lift, 2) },
    {
      label: "Mean weight",
      term: "weight",
      number: true,
      show: (row) => (row.weight === null ? "not recorded" : number(row.weight, 3)),
    },
    {
      label: "Times",
      term: "times chosen",
      number: true,
      show: (row) => row.n.toLocaleString("en"),
    },
  ];
  const bars = sorted.map((row) => ({
    label: row.phase,
    text: percentOr(row.share),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    "Load",
    `Share of the tokens of each phase that chose it; even is ${percent(even)}. × even is lift.`,
    sorted,
    [
      ["phase", (row) => row.phase],
      ["times chosen", (row) => row.n],
      ["tokens", (row) => row.tokens],
      ["share", (row) => row.share],
      ["weight", (row) => row.weight],
      ["lift", (row) => row.lift],
    ],
    made,
    bars,
  );
  return part("Load", "load", "", behind, ranked("Load by phase", columns, sorted));
}

/**
 * @param {Parts["causes"]} data
 * @param {Boot} boot
 */
function causesPart({ rows: causes, made }, boot) {
  const known = causes.filter((row) => row.n || row.kept_out);
  if (!known.length)
    return part("Why it was chosen", "", "", null, nothing("Imported runs do not tell why."));
  /** @type {Column<(typeof causes)[0]>[]} */
  const columns = [
    { label: "Phase", term: "phase", show: (row) => row.phase },
    {
      label: "By bias",
      term: "bias flip share",
      bar: (row) => upTo(row.bias_flips ?? 0, 1, "var(--warn)"),
      show: (row) => percentOr(row.bias_flips),
    },
    {
      label: "Stood in",
      term: "stand-in",
      bar: (row) => upTo(row.stand_ins ?? 0, 1),
      show: (row) => percentOr(row.stand_ins),
    },
    {
      label: "Kept out",
      term: "group flip",
      number: true,
      show: (row) => row.kept_out.toLocaleString("en"),
    },
    {
      label: "Lead, median",
      term: "lead",
      number: true,
      show: (row) => numberOr(row.margin_50, 3),
    },
  ];
  const bars = known.map((row) => ({
    label: `${row.phase}, by bias`,
    text: percentOr(row.bias_flips),
    bar: upTo(row.bias_flips ?? 0, 1, "#c98a1c"),
  }));
  const behind = behindOf(
    boot,
    "Why it was chosen",
    "Shares of its choices that the bias made, and in which it stood in for an expert of a rejected group; how often it was kept out itself; quantiles of its lead, in units of score.",
    known,
    [
      ["phase", (row) => row.phase],
      ["choices", (row) => row.n],
      ["by bias", (row) => row.bias_flips],
      ["stood in", (row) => row.stand_ins],
      ["kept out", (row) => row.kept_out],
      ["lead 5%", (row) => row.margin_05],
      ["lead 50%", (row) => row.margin_50],
      ["lead 95%", (row) => row.margin_95],
    ],
    made,
    bars,
  );
  return part("Why it was chosen", "", "", behind, ranked("Causes by phase", columns, known));
}

/**
 * @param {Parts["roles"]} data
 * @param {Boot} boot
 * @param {string} phase
 */
function rolesPart({ rows: roles, made }, boot, phase) {
  const title = "Steps it works in";
  const rows = inPhase(roles, phase).sort((a, b) => (b.npmi ?? -2) - (a.npmi ?? -2));
  if (!rows.length) {
    const why = roles.length
      ? `No step of ${phase} has a role.`
      : "The traces are not cut into steps: ringlens steps does it.";
    return part(title, "nPMI", "", null, nothing(why));
  }
  const edge = Math.max(0.05, ...rows.map((row) => Math.abs(row.npmi ?? 0)).filter((x) => x < 1));
  /** @param {(typeof roles)[0]} row */
  const bar = (row) => ({
    from: 0.5,
    to: 0.5 + 0.5 * Math.max(-1, Math.min(1, (row.npmi ?? 0) / edge)),
    colour: (row.npmi ?? 0) < 0 ? colours.line("entropy") : accent(),
  });
  /** @param {string} role */
  const words = (role) => role.replace(/_/g, " ");
  /** @type {Column<(typeof roles)[0]>[]} */
  const columns = [
    { label: "Role", term: "step role", show: (row) => words(row.role) },
    { label: "nPMI", term: "nPMI", bar, show: (row) => numberOr(row.npmi, 3) },
    { label: "Of its tokens", term: "share", number: true, show: (row) => percent(row.share) },
    { label: "Tokens", number: true, show: (row) => row.tokens.toLocaleString("en") },
  ];
  if (phase === "all") columns.unshift({ label: "Phase", show: (row) => row.phase });
  const bars = rows.map((row) => ({
    label: words(row.role),
    text: numberOr(row.npmi, 3),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    title,
    "Normalised pointwise mutual information of the expert and the role of the step, over the tokens of a phase: −1 never together, 0 independent, 1 always.",
    rows,
    [
      ["phase", (row) => row.phase],
      ["role", (row) => row.role],
      ["nPMI", (row) => row.npmi],
      ["share", (row) => row.share],
      ["lift", (row) => row.lift],
      ["n", (row) => row.n],
      ["tokens", (row) => row.tokens],
    ],
    made,
    bars,
  );
  return part(title, "nPMI", "", behind, ranked(title, columns, rows));
}

/**
 * @param {Parts["tokens"]} data
 * @param {Boot} boot
 * @param {string} phase
 */
function wordsPart({ rows: tokens, made }, boot, phase) {
  const title = "Words it serves";
  const rows = inPhase(tokens, phase).sort((a, b) => b.share - a.share || b.n - a.n);
  if (!rows.length)
    return part(
      title,
      "occurrence share",
      "",
      null,
      nothing("No word that occurs ten times or more was routed to it."),
    );
  /** @param {(typeof tokens)[0]} row */
  const bar = (row) => upTo(row.share, 1);
  /** @type {Column<(typeof tokens)[0]>[]} */
  const columns = [
    { label: "Token", show: (row) => el("code", "token-cell", visible(row.text)) },
    {
      label: "Of its occurrences",
      term: "occurrence share",
      bar,
      show: (row) => percent(row.share),
    },
    { label: "of", number: true, show: (row) => row.occurrences.toLocaleString("en") },
    { label: "Lift", number: true, show: (row) => numberOr(row.lift, 1) },
  ];
  if (phase === "all") columns.unshift({ label: "Phase", show: (row) => row.phase });
  const bars = rows.map((row) => ({
    label: visible(row.text),
    text: percent(row.share),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    title,
    "Share of a word's occurrences that chose it, of words with ten or more in a phase; lift is that share over the share of all tokens.",
    rows,
    [
      ["phase", (row) => row.phase],
      ["token", (row) => visible(row.text)],
      ["share", (row) => row.share],
      ["n", (row) => row.n],
      ["occurrences", (row) => row.occurrences],
      ["lift", (row) => row.lift],
    ],
    made,
    bars,
  );
  return part(title, "occurrence share", "", behind, ranked(title, columns, rows.slice(0, SHOWN)));
}

/**
 * A link to the card of another expert of the layer.
 * @param {Boot} boot
 * @param {number} expert
 */
function expertLink(boot, expert) {
  const query = new URLSearchParams({ run: boot.run_id });
  const found = link(`/expert/${boot.layer}/${expert}?${query}`, "expert-link", `E${expert}`);
  const dot = el("i", "swatch");
  dot.style.background = colours.expertLine(expert, boot);
  found.prepend(dot);
  return found;
}

/** @type {(boot: Boot, expert: number) => string} */
const groupOf = (boot, expert) => String(Math.floor(expert / (boot.experts / boot.groups)));

/**
 * @param {Parts["company"]} data
 * @param {Boot} boot
 * @param {string} phase
 */
function companyPart({ rows: together, made }, boot, phase) {
  const title = "Experts beside it";
  const rows = inPhase(together, phase).sort((a, b) => b.lift - a.lift);
  if (!rows.length)
    return part(
      title,
      "co-activation",
      "",
      null,
      nothing("No token of these chose it with another."),
    );
  const top = Math.max(...rows.map((row) => row.lift));
  /** @param {Company} row */
  const bar = (row) => ({
    ...upTo(row.lift, top, colours.expertLine(row.other, boot)),
    mark: 1 / top,
  });
  /** @type {Column<Company>[]} */
  const columns = [
    { label: "Expert", show: (row) => expertLink(boot, row.other) },
    { label: "Group", term: "group", number: true, show: (row) => groupOf(boot, row.other) },
    { label: "Lift", term: "co-activation", bar, show: (row) => number(row.lift, 2) },
    { label: "Of its tokens", number: true, show: (row) => percent(row.share) },
  ];
  if (phase === "all") columns.unshift({ label: "Phase", show: (row) => row.phase });
  const bars = rows.map((row) => ({
    label: `E${row.other}`,
    text: number(row.lift, 2),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    title,
    "Experts that the same token chose on this layer. Lift: how many times more often than if the two were independent; the line is 1.",
    rows,
    [
      ["phase", (row) => row.phase],
      ["expert", (row) => row.other],
      ["n", (row) => row.n],
      ["share", (row) => row.share],
      ["lift", (row) => row.lift],
    ],
    made,
    bars,
  );
  return part(title, "co-activation", "", behind, ranked(title, columns, rows.slice(0, SHOWN)));
}

/**
 * @param {Parts["contexts"]} data
 * @param {Boot} boot
 * @param {string} phase
 */
function contextsPart({ rows: contexts, made }, boot, phase) {
  const title = "Where it weighs most";
  const rows = inPhase(contexts, phase);
  if (!rows.length)
    return part(
      title,
      "weight",
      "wide",
      null,
      nothing("None of its heaviest contexts is in this phase."),
    );
  const list = el("div", "contexts");
  for (const row of rows) {
    const href = `/trace/${row.trace_id}?tok=${row.pos}&L=${boot.layer}&metric=expert`;
    const item = link(href, "context", "");
    const snippet = add(
      el("span", "snippet"),
      el("span", "", row.before.replace(/\n/g, " ↵ ")),
      el("mark", "", visible(row.text)),
      el("span", "", row.after.replace(/\n/g, " ↵ ")),
    );
    const weight = el("span", "weight", row.weight === null ? "" : number(row.weight, 2));
    const where = [row.role?.replace(/_/g, " "), `trace ${row.trace_id}`]
      .filter(Boolean)
      .join(" · ");
    list.appendChild(add(item, weight, snippet, el("span", "dim context-place", where)));
  }
  const behind = behindOf(
    boot,
    title,
    "Tokens with the highest routing weight of the expert, with the text around; one for each text.",
    rows,
    [
      ["trace", (row) => row.trace_id],
      ["token", (row) => row.pos],
      ["phase", (row) => row.phase],
      ["role", (row) => row.role],
      ["weight", (row) => row.weight],
      ["text", (row) => `${row.before}[${row.text}]${row.after}`],
    ],
    made,
    [],
  );
  return part(title, "weight", "wide", behind, list);
}

/**
 * @param {Parts["causes"]} data
 * @param {Boot} boot
 * @param {string} phase
 */
function standInsPart({ displacements, made_displacements }, boot, phase) {
  const title = "What the group limit did";
  const rows = inPhase(displacements, phase).sort((a, b) => b.n - a.n);
  if (!rows.length)
    return part(
      title,
      "group flip",
      "",
      null,
      nothing("It neither stood in for another, nor was kept out."),
    );
  const top = rows[0].n;
  /** @param {Displacement} row */
  const bar = (row) => upTo(row.n, top, colours.expertLine(row.other, boot));
  /** @type {Column<Displacement>[]} */
  const columns = [
    { label: "It", show: (row) => row.event },
    { label: "Expert", show: (row) => expertLink(boot, row.other) },
    { label: "Times", bar, show: (row) => row.n.toLocaleString("en") },
  ];
  if (phase === "all") columns.unshift({ label: "Phase", show: (row) => row.phase });
  const bars = rows.map((row) => ({
    label: `${row.event} E${row.other}`,
    text: String(row.n),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    title,
    "Whose place it took, because the other's group was rejected, and who took its place.",
    rows,
    [
      ["phase", (row) => row.phase],
      ["event", (row) => row.event],
      ["expert", (row) => row.other],
      ["times", (row) => row.n],
    ],
    made_displacements,
    bars,
  );
  return part(title, "group flip", "", behind, ranked(title, columns, rows.slice(0, SHOWN)));
}

/** @type {Record<string, [string, string]>} */
const EFFECTS = {
  loss: ["loss", "nats a token"],
  answer: ["log-probability of the answer", "nats"],
};

/**
 * @param {Parts["ablation"]} ablation
 * @param {Boot} boot
 */
function ablationPart(ablation, boot) {
  const title = "Without it";
  if (ablation.lacks) {
    const command = ablation.command || "";
    const copy = el("button", "copy", "Copy", { type: "button", "data-copy": command });
    const box = add(el("div", "command"), el("code", "", command), copy);
    return part(title, "ablation", "wide", null, nothing(ablation.lacks), box);
  }
  const rows = ablation.effects;
  const edge =
    Math.max(...rows.flatMap((row) => [row.mean, row.low ?? 0, row.high ?? 0].map(Math.abs))) || 1;
  /** @param {number} value */
  const at = (value) => 0.5 + (0.5 * value) / edge;
  /** @param {(typeof rows)[0]} row */
  const bar = (row) => ({
    from: 0.5,
    to: at(row.mean),
    colour: accent(),
    range:
      row.low === null || row.high === null
        ? null
        : /** @type {[number, number]} */ ([at(row.low), at(row.high)]),
  });
  /** @param {string} key */
  const name = (key) => EFFECTS[key] || [key, ""];
  /** @type {Column<(typeof rows)[0]>[]} */
  const columns = [
    { label: "Rise of", show: (row) => name(row.key)[0] },
    { label: "Mean", bar, show: (row) => `${number(row.mean, 4)} ${name(row.key)[1]}` },
    {
      label: "95% over traces",
      number: true,
      show: (row) =>
        row.low === null ? "one trace" : `${numberOr(row.low, 4)} to ${numberOr(row.high, 4)}`,
    },
    { label: "Traces", number: true, show: (row) => String(row.traces) },
  ];
  const bars = rows.map((row) => ({
    label: name(row.key)[0],
    text: number(row.mean, 4),
    bar: bar(row),
  }));
  const behind = behindOf(
    boot,
    title,
    "What the model does on the same tokens if the expert is never chosen: the mean rise over traces, and a bootstrap interval over them.",
    rows,
    [
      ["rise of", (row) => name(row.key)[0]],
      ["mean", (row) => row.mean],
      ["low", (row) => row.low],
      ["high", (row) => row.high],
      ["traces", (row) => row.traces],
    ],
    ablation.made,
    bars,
  );
  return part(title, "ablation", "wide", behind, ranked(title, columns, rows));
}
