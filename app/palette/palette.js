// The command palette: type where to go, choose by arrow keys, go by Enter.

import { param } from "../shared/address.js";
import { add, el, hit } from "../shared/dom.js";
import { fetchJson, go } from "../shared/host.js";
import { messageOf } from "../shared/text.js";

/**
 * @typedef {object} Command
 * @property {string} kind
 * @property {string} title
 * @property {string} about
 * @property {string} [key] That does the same anywhere.
 * @property {() => void} act
 */

const WAIT = 120; // milliseconds after the last letter before the server is asked
const HINT = "A page, L3 E17, 12, words of a problem, a run";

/**
 * Whether every word of a text is in a command's title.
 * @param {Command} command
 * @param {string} typed
 */
const fits = ({ title, about }, typed) => {
  const said = `${title} ${about}`.toLowerCase();
  return typed
    .toLowerCase()
    .split(/\s+/)
    .every((word) => said.includes(word));
};

/**
 * @param {() => Command[]} commands What can be done at any time.
 */
export function commandPalette(commands) {
  const dialog = el("dialog", "palette", null, { id: "palette", "aria-label": "Go to" });
  const box = el("input", "palette-box", null, {
    type: "text",
    role: "combobox",
    placeholder: HINT,
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Go to a page, an expert, a trace or a run",
    "aria-expanded": "true",
    "aria-controls": "palette-list",
    "aria-autocomplete": "list",
  });
  const list = el("div", "palette-list", null, {
    id: "palette-list",
    role: "listbox",
    "aria-label": "What was found",
  });
  const said = el("p", "palette-said dim", null, { role: "status" });
  add(dialog, box, list, said);
  /** @type {Command[]} */
  let shown = [];
  let at = 0;
  let turn = 0; // of the questions: an answer to an older one comes too late
  let timer = 0;

  /** @param {Command[]} next */
  function show(next) {
    shown = next;
    at = 0;
    list.replaceChildren(
      ...shown.map(({ kind, title, about, key }, i) => {
        const line = el("div", "palette-option", null, {
          role: "option",
          id: `palette-${i}`,
          "data-at": i,
        });
        const words = add(el("span", "palette-words"), el("b", "", title), el("span", "", about));
        return add(line, el("span", "palette-kind", kind), words, key ? el("kbd", "", key) : null);
      }),
    );
    list.hidden = !shown.length;
    mark();
  }

  function mark() {
    for (const [i, line] of [...list.children].entries()) {
      line.setAttribute("aria-selected", String(i === at));
    }
    const line = list.children[at];
    if (!line) return box.removeAttribute("aria-activedescendant");
    box.setAttribute("aria-activedescendant", line.id);
    line.scrollIntoView({ block: "nearest" });
  }

  function read() {
    const typed = box.value.trim();
    turn += 1;
    window.clearTimeout(timer);
    const own = commands().filter((command) => !typed || fits(command, typed));
    show(own);
    said.textContent = typed ? "" : "Ctrl K or ⌘ K opens this anywhere.";
    dialog.dataset.asked = String(!typed);
    if (typed) timer = window.setTimeout(ask, WAIT, typed, own, turn);
  }

  /**
   * Ask the server, and show what it found behind the commands.
   * @param {string} typed
   * @param {Command[]} own
   * @param {number} mine
   */
  async function ask(typed, own, mine) {
    const query = new URLSearchParams({ text: typed });
    const run = param("run");
    if (run) query.set("run", run);
    try {
      const answer = await fetchJson(`/data/find?${query}`);
      if (mine !== turn) return;
      const found = answer.found.map(
        (/** @type {{kind: string, title: string, about: string, href: string}} */ each) => ({
          ...each,
          act: () => go(each.href),
        }),
      );
      const chosen = shown[at]; // stays chosen while one types on
      show([...own, ...found]);
      at = Math.max(0, shown.indexOf(chosen));
      mark();
      said.textContent = answer.said || (shown.length ? "" : "Nothing is called so.");
    } catch (error) {
      if (mine === turn) said.textContent = messageOf(error);
    }
    if (mine === turn) dialog.dataset.asked = "true";
  }

  /** @param {number} place */
  function act(place) {
    const command = shown[place];
    if (!command) return;
    dialog.close();
    command.act();
  }

  /** @type {Record<string, () => void>} */
  const keys = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    PageDown: () => move(8),
    PageUp: () => move(-8),
    Enter: () => act(at),
  };

  /** @param {number} by */
  function move(by) {
    if (!shown.length) return;
    const far = Math.abs(by) > 1;
    const to = at + by;
    at = far ? Math.max(0, Math.min(shown.length - 1, to)) : (to + shown.length) % shown.length;
    mark();
  }

  box.addEventListener("input", read);
  dialog.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.isComposing) return;
    event.preventDefault();
    keys[event.key]();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) return dialog.close();
    const line = hit(event, "[data-at]");
    if (line) act(Number(line.dataset.at));
  });

  /** Open it, or close it if it is open. */
  function toggle() {
    if (dialog.open) return dialog.close();
    for (const other of document.querySelectorAll("dialog[open]")) {
      if (other instanceof HTMLDialogElement) other.close();
    }
    if (!dialog.isConnected) document.body.appendChild(dialog);
    box.value = "";
    dialog.showModal();
    read();
  }
  return toggle;
}
