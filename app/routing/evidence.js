// Below the numbers of an expert, where there is a server: the tokens that it is chosen for, the places
// where it weighs most, and what leads on.

import { add, el } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { messageOf, number, percent, visible } from "../shared/text.js";

/** @import { Boot, Evidence, View } from "./types.js" */

const ORDERS = { count: "Frequent", share: "Exclusive" };

/**
 * @param {View} view
 * @param {NonNullable<Boot["of"]>} of
 */
export function evidencePanel(view, of) {
  const { host } = view;
  const node = el("div", "expert-evidence");
  let order = "count";
  let asked = ""; // an answer to an older question comes too late

  async function show() {
    const { L, E } = view.focus;
    const phase = view.phase === "difference" ? "all" : view.phase;
    const query = new URLSearchParams({ ...of, phase, order });
    const path = E === null ? "" : `/data/usage/expert/${L}/${E}?${query}`;
    if (path === asked) return; // it is here, or comes
    asked = path;
    if (E === null) return node.replaceChildren();
    try {
      const found = await host.fetchJson(path);
      if (asked === path) draw(found, L, E);
    } catch (error) {
      if (asked === path) node.replaceChildren(el("p", "error", messageOf(error)));
    }
  }

  /**
   * @param {Evidence} found
   * @param {number} layer
   * @param {number} expert
   */
  function draw({ tokens, contexts, bias, proof }, layer, expert) {
    const card = `/expert/${layer}/${expert}?${new URLSearchParams({ run: of.run })}`;
    const ways = add(el("div", "expert-ways"), host.link(card, "button", "Card"));
    if (proof) {
      const real = host.link(proof, "button", "Is it real?");
      real.title = "thought against answer in the whole run, beside chance";
      ways.appendChild(real);
    }
    if (bias !== null) {
      const name = termed(el("span", "", "selection bias"), "selection bias");
      add(
        ways,
        add(el("span", "dim"), name, el("b", "", ` ${bias < 0 ? "" : "+"}${number(bias, 3)}`)),
      );
    }
    const weighed = contexts.some(({ weight }) => weight !== null);
    const title = el("h3", "", weighed ? "Where it weighs most" : "Where it is chosen");
    const parts = tokens.length
      ? [tokenTable(tokens), title, contextList(contexts, layer)]
      : [el("p", "dim", nothing())];
    node.replaceChildren(ways, bar(), ...parts);
  }

  const nothing = () => {
    const least = order === "share" ? " at least ten times" : "";
    return `No token that occurs${least} here was routed to it.`;
  };

  function bar() {
    const group = el("div", "segments", null, { role: "group", "aria-label": "Top tokens" });
    for (const [name, label] of Object.entries(ORDERS)) {
      const button = el("button", "", label, {
        type: "button",
        "aria-pressed": `${name === order}`,
      });
      button.addEventListener("click", () => {
        order = name;
        show();
      });
      group.appendChild(button);
    }
    return add(el("div", "section-bar"), el("h3", "", "Top tokens"), el("span", "spacer"), group);
  }

  /**
   * @param {Evidence["contexts"]} rows
   * @param {number} layer
   */
  function contextList(rows, layer) {
    const list = el("div", "contexts");
    for (const { trace_id, pos, weight, before, token, after } of rows) {
      const link = host.link(
        `/trace/${trace_id}?tok=${pos}&L=${layer}&metric=expert`,
        "context",
        "",
      );
      const share = el("span", "weight", weight === null ? "" : percent(weight));
      share.title = "weight share: of the token's routing weight";
      const words = add(
        el("span", "snippet"),
        el("span", "", flat(before)),
        el("mark", "", visible(token)),
        el("span", "", flat(after)),
      );
      list.appendChild(add(link, share, words, el("span", "dim", `#${trace_id}`)));
    }
    return list;
  }

  return { node, show };
}

/** @param {string} text */
const flat = (text) => text.replaceAll("\n", " ↵ ");

/** @param {Evidence["tokens"]} rows */
function tokenTable(rows) {
  const top = Math.max(...rows.map(({ n }) => n));
  /** @type {(share: number, text: string) => HTMLElement} */
  const meter = (share, text) => {
    const fill = el("i");
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    return add(el("td", "meter"), add(el("span", "bar"), fill), el("span", "value", text));
  };
  const body = rows.map(({ text, n, share, weight }) =>
    add(
      el("tr"),
      add(el("td"), el("code", "token-cell", visible(text))),
      meter(n / top, n.toLocaleString("en")),
      meter(share, percent(share)),
      el("td", "num", weight === null ? "not recorded" : percent(weight)),
    ),
  );
  /** @type {(label: string, name: string, className?: string) => HTMLElement} */
  const head = (label, name, className) =>
    add(el("th", className), termed(el("span", "", label), name));
  const heads = add(
    el("tr"),
    el("th", "", "Token"),
    head("Times chosen", "times chosen"),
    head("Of its occurrences", "occurrence share"),
    head("Weight share", "weight share", "num"),
  );
  return add(el("table", "token-table"), add(el("thead"), heads), add(el("tbody"), ...body));
}
