// What a widget shows, in a frame of its own: a trace, or the usage of experts, by the same
// scripts as in the dashboard. The widget (widget.js) gives it a host and hears what is chosen.

import { mount as mountUsage } from "../routing/view.js";
import { add, el } from "../shared/dom.js";
import { messageOf } from "../shared/text.js";
import { mount } from "../trace/view.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Given, GivenRouting, GivenTrace } from "./types.js" */

/** @type {{ringlensGiven?: Given}} */
const world = /** @type {any} */ (window);

/**
 * The host of a frame, which has no address: what is shown is kept in an object, pages are text.
 * @param {Host["fetchJson"]} fetchJson
 * @param {Record<string, string | number | null | undefined>} state
 * @returns {Host}
 */
const hostOf = (fetchJson, state) => ({
  fetchJson,
  go: () => {},
  link: (_href, className, text) => el("span", className, text),
  param: (name) => {
    const value = state[name];
    return value === undefined || value === null ? null : String(value);
  },
  setParams: (changes) => Object.assign(state, changes),
});

/**
 * A trace: a click selects a token, with Shift all tokens from the one before.
 * @param {HTMLElement} root
 * @param {GivenTrace} given
 */
async function showTrace(root, { boot, fetchJson, choose, selected, onSelected }) {
  /** @type {Record<string, string | number | null | undefined>} */
  const state = {};
  let extending = false;
  let quiet = true; // what the widget was told is not told back
  /** @type {number[]} */
  let chosen = [];
  root.addEventListener(
    "mousedown",
    (event) => {
      extending = event.shiftKey;
      if (extending) event.preventDefault(); // else the browser selects text
    },
    true,
  );

  const mark = () => {
    const wanted = new Set(chosen.length > 1 ? chosen : []);
    for (const node of root.querySelectorAll(".t")) {
      node.classList.toggle("chosen", wanted.has(/** @type {any} */ (node).tokenIndex));
    }
  };
  /** @param {number | null} pos */
  const clicked = (pos) => {
    if (pos === null) chosen = [];
    else if (extending && chosen.length) {
      const [from, to] = [Math.min(chosen[0], pos), Math.max(chosen[0], pos)];
      chosen = Array.from({ length: to - from + 1 }, (_, i) => from + i);
      if (chosen[0] !== pos && from === pos) chosen.reverse(); // the first stays the one it began at
    } else chosen = [pos];
    extending = false;
    mark();
    choose(chosen);
  };
  const plain = hostOf(fetchJson, state);
  /** @type {Host} */
  const host = {
    ...plain,
    setParams(changes) {
      plain.setParams(changes);
      if ("tok" in changes && !quiet) clicked(/** @type {number | null} */ (changes.tok ?? null));
    },
  };
  if (selected.length) state.tok = selected[0];
  const view = await mount(root, boot, host, document);
  quiet = false;
  /** @param {number[]} wanted */
  const take = (wanted) => {
    chosen = wanted;
    quiet = true;
    if (wanted.length) view?.setPos(wanted[0], true);
    quiet = false;
    mark();
  };
  if (selected.length) take(selected);
  onSelected(take);
}

/**
 * How often experts were chosen: a click selects one.
 * @param {HTMLElement} root
 * @param {GivenRouting} given
 */
async function showRouting(root, { boot, fetchJson, choose, selected, onSelected }) {
  const [L, E] = selected;
  const plain = hostOf(fetchJson, { L, E });
  let quiet = false; // what the widget was told is not told back
  const view = await mountUsage(root, boot, {
    ...plain,
    setParams(changes) {
      plain.setParams(changes);
      if ("E" in changes && !quiet) choose(chosenIn(changes));
    },
  });
  onSelected(([layer, expert]) => {
    quiet = true;
    if (view) view.setFocus({ L: layer ?? view.focus.L, E: expert ?? null }, false);
    quiet = false;
  });
}

/**
 * What is selected where the focus changes: a layer and an expert, or nothing.
 * @param {Record<string, string | number | null | undefined>} changes
 */
const chosenIn = ({ L, E }) => (typeof E === "number" ? [Number(L), E] : []);

async function start() {
  const given = world.ringlensGiven;
  if (!given) return;
  const root = el("div", given.kind === "trace" ? "trace-app" : "usage-app");
  document.body.appendChild(root);
  try {
    if (given.kind === "trace") await showTrace(root, given);
    else await showRouting(root, given);
  } catch (error) {
    root.replaceChildren(add(el("div", "state"), el("p", "", messageOf(error))));
  }
}

start();
