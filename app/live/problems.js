// The choice of a problem: a set, and one of its problems, whose answer is graded when it is there.

import { param } from "../shared/address.js";
import { add, el } from "../shared/dom.js";
import { fetchJson } from "../shared/host.js";

/** @typedef {{id: string, prompt: string}} Problem */

/**
 * @param {string[]} sets Names of the sets.
 * @param {(prompt: string) => void} show Takes what a chosen problem asks.
 * @param {(error: unknown) => void} fail
 */
export function problemChoice(sets, show, fail) {
  const set = el("select", "live-input", null, { "aria-label": "Set of problems" });
  add(set, el("option", "", "typed", { value: "" }));
  for (const name of sets) add(set, el("option", "", name, { value: name }));
  const which = el("select", "live-input", null, { "aria-label": "Problem" });
  const any = el("button", "button", "Any", { type: "button", title: "a problem by chance" });
  const rest = add(el("div", "live-which"), which, any);
  const node = add(el("div", "live-problem"), el("span", "label", "Problem"), set, rest);
  /** @type {Problem[]} */
  let listed = [];
  rest.hidden = true;

  const chosen = () => (set.value ? listed.find(({ id }) => id === which.value) : undefined);
  const told = () => show(chosen()?.prompt ?? "");

  /**
   * List the problems of the set, and choose one.
   * @param {string | null} wanted Its id; the first if there is no such one.
   */
  async function list(wanted) {
    const name = set.value;
    rest.hidden = !name;
    listed = [];
    which.replaceChildren();
    if (!name) return;
    try {
      const found = await fetchJson(`/data/live/problems?${new URLSearchParams({ set: name })}`);
      if (set.value !== name) return; // another was chosen meanwhile
      listed = found.problems;
    } catch (error) {
      return fail(error);
    }
    add(which, ...listed.map(({ id }) => el("option", "", id, { value: id })));
    if (listed.some(({ id }) => id === wanted)) which.value = wanted || "";
    told();
  }

  set.addEventListener("change", () => list(null));
  which.addEventListener("change", told);
  any.addEventListener("click", () => {
    which.selectedIndex = Math.floor(Math.random() * listed.length);
    told();
  });
  const asked = param("set");
  if (asked && sets.includes(asked)) {
    set.value = asked;
    list(param("problem"));
  }
  return {
    node,
    /** How a request names the problem; null where the question was typed. */
    named() {
      const found = chosen();
      return found ? { set: set.value, id: found.id } : null;
    },
    /**
     * Something was typed: where that is not the problem, the question is one's own.
     * @param {string} prompt
     */
    typed(prompt) {
      if (!set.value || chosen()?.prompt === prompt) return;
      set.value = "";
      list(null);
    },
  };
}
