// The rows of the alignment: the step of one trace, how far it is, the step of the other.

import { heat } from "../shared/colours.js";
import { add, el, hit } from "../shared/dom.js";
import { termed } from "../shared/glossary.js";
import { link } from "../shared/host.js";
import { roleColour, roleName } from "../shared/roles.js";
import { number, plural } from "../shared/text.js";
import { isPair, stepOf } from "./alignment.js";
import { colourOf } from "./overview.js";

/** @import { Strip } from "../annotations/types.js" */
/** @import { Alignment, Row, Side } from "./types.js" */

/**
 * The address of a step on its trace.
 * @param {Side} side
 * @param {number} place
 */
export const addressOf = (side, place) => `/trace/${side.trace_id}?tok=${side.first[place]}`;

/**
 * The address of the query for the experts that two steps choose differently, or both thoughts
 * where no step is in focus; null where the one in focus has no partner.
 * @param {Alignment} found
 * @param {number} row
 * @param {string} run Of the first trace.
 */
export const expertsOf = (found, row, run) => {
  if (found.rows[row] && !isPair(found.rows[row])) return null;
  const [a, b] = found.sides.map(({ trace_id }) => trace_id);
  const places = [a, b].map((trace, side) => {
    const step = found.rows[row] ? ` and step = ${stepOf(found, row, side ? 1 : 0)}` : "";
    return `(trace_id = ${trace}${step})`;
  });
  const q = `-- One trace on each side does not tell chance: /compare does, for many.
with chosen as (
    select trace_id, layer, expert, count(*) as n
    from router_choices join token_context using (trace_id, pos)
    where phase = 'think' and (${places.join(" or ")})
    group by all),
shares as (
    select *, n / sum(n) over (partition by trace_id, layer) as share from chosen)
select layer, expert,
       coalesce(sum(share) filter (trace_id = ${a}), 0) as share_of_${a},
       coalesce(sum(share) filter (trace_id = ${b}), 0) as share_of_${b},
       share_of_${a} - share_of_${b} as difference, '${run.replaceAll("'", "''")}' as run_id
from shares group by layer, expert order by abs(difference) desc, layer, expert`;
  return `/sql?${new URLSearchParams({ q })}`;
};

/**
 * @param {Side} side
 * @param {number} place
 */
function stepCell(side, place) {
  if (place < 0) return el("div", "beside-step none", "no partner");
  const swatch = el("i", "swatch");
  swatch.style.background = roleColour(side.role[place]);
  const head = add(
    el("div", "beside-head"),
    swatch,
    el("span", "dim", `step ${side.step[place]}`),
    el("b", "", roleName(side.role[place])),
  );
  if (side.backtrack[place]) head.appendChild(el("span", "tag", "goes back"));
  if (side.hypothesis[place]) head.appendChild(el("span", "tag", "proposes"));
  const text = el("p", "beside-text", side.text[place].trim());
  return add(el("div", "beside-step"), head, text);
}

/**
 * @param {Row} row
 * @param {number} mean Routing distance of all pairs.
 */
function joinCell(row, mean) {
  const cell = el("div", "beside-join");
  const score = `${row.score < 0 ? "" : "+"}${number(row.score, 2)}`;
  if (!isPair(row)) return add(cell, el("span", "dim", score));
  const bar = el("span", "ranked-bar");
  const fill = el("i");
  fill.style.width = `${100 * row.distance}%`;
  fill.style.backgroundColor = colourOf(row, heat());
  const even = el("u", "even");
  even.style.left = `${100 * mean}%`;
  add(bar, fill, even);
  return add(cell, el("b", "", number(row.distance, 2)), bar, el("span", "dim", score));
}

/**
 * What stands in the rows.
 * @param {Alignment} found
 */
export function rowsHead(found) {
  const [first, second] = found.sides.map(({ trace_id, step }, side) => {
    const alone = found.rows.filter((row) => !isPair(row) && row.places[side] >= 0);
    const said = `${plural(step.length, "step")}, ${alone.length} without a partner`;
    return add(el("span", ""), el("b", "", `Trace ${trace_id}`), el("span", "dim", said));
  });
  const distance = termed(el("span", "", "distance"), "routing distance");
  const score = termed(el("span", "", "score"), "alignment");
  const middle = add(el("span", "dim"), distance, el("span", "", " · "), score);
  return add(el("div", "beside-row beside-names"), first, middle, second);
}

/**
 * @param {Alignment} found
 * @param {(row: number) => void} choose
 */
export function alignedRows(found, choose) {
  const node = el("div", "beside-rows", null, {
    role: "listbox",
    "aria-label": "Steps of both traces, partners beside one another",
    tabindex: 0,
  });
  found.rows.forEach((row, i) => {
    const [first, second] = row.places.map((place, side) => stepCell(found.sides[side], place));
    const line = el("div", `beside-row${isPair(row) ? "" : " alone"}`, null, {
      role: "option",
      id: `row-${i}`,
      "aria-selected": "false",
      "data-row": i,
    });
    node.appendChild(add(line, first, joinCell(row, found.meanDistance), second));
  });
  node.addEventListener("click", (event) => {
    const line = hit(event, "[data-row]");
    if (line && !hit(event, "a")) choose(Number(line.dataset.row));
  });
  let marked = -1;

  /**
   * Show what people said of the steps of a side.
   * @param {0 | 1} side
   * @param {Strip} said
   */
  function tell(side, said) {
    const { first, end } = found.sides[side];
    for (const [i, { places }] of found.rows.entries()) {
      const place = places[side];
      const cell = node.children[i].children[2 * side];
      cell.querySelector(".step-said-list")?.remove();
      const chips = place < 0 ? [] : said.chipsOf(first[place], end[place]);
      if (chips.length) cell.firstChild?.after(add(el("div", "step-said-list"), ...chips));
    }
  }

  /**
   * @param {number} row
   * @param {boolean} scroll
   */
  function mark(row, scroll) {
    node.children[marked]?.setAttribute("aria-selected", "false");
    const line = node.children[row];
    marked = row;
    if (!line) return node.removeAttribute("aria-activedescendant");
    line.setAttribute("aria-selected", "true");
    node.setAttribute("aria-activedescendant", line.id);
    if (scroll) line.scrollIntoView({ block: "center" });
  }
  return { node, mark, tell };
}

/**
 * What leads on from a row, or from both thoughts.
 * @param {Alignment} found
 * @param {number} row
 * @param {string} run Of the first trace.
 */
export function waysOn(found, row, run) {
  const box = el("div", "buttons");
  found.rows[row]?.places.forEach((place, at) => {
    const side = found.sides[at];
    if (place < 0) return;
    const said = `Step ${side.step[place]} on trace ${side.trace_id}`;
    const node = link(addressOf(side, place), "button", said);
    box.appendChild(add(node, el("kbd", "", at + 1)));
  });
  const experts = expertsOf(found, row, run);
  if (experts) {
    box.appendChild(add(link(experts, "button", "Which experts differ"), el("kbd", "", "e")));
  }
  return box;
}
