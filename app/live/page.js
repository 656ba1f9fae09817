// The live page: asks the server what is new, and has the form and the thoughts show it.

import { clientside, quietly } from "../shared/dash.js";
import { add, el, pageKeys } from "../shared/dom.js";
import { fetchJson } from "../shared/host.js";
import { messageOf } from "../shared/text.js";
import { onTheme } from "../shared/theme.js";
import { formOf } from "./form.js";
import { pairOf } from "./pair.js";

/** @import { Boot, Form, News, Pair, Thought } from "./types.js" */

const [SOON, LATER] = [250, 1500]; // milliseconds between questions to the server

/**
 * @typedef {object} Page
 * @property {HTMLElement} root
 * @property {Form} form
 * @property {HTMLElement} said
 * @property {HTMLElement} list
 * @property {Map<number, Pair>} pairs
 * @property {Map<number, Thought>} thoughts
 * @property {Map<number, [number, number]>} seen Edition and tokens of each thought.
 */

/** @type {Page | null} */
let page = null;
let timer = 0;

const isOpen = () => page !== null && document.contains(page.root);

/**
 * @param {string} path
 * @param {unknown} body
 */
export const post = (path, body) =>
  fetchJson(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

// --- what comes -----------------------------------------------------------------------------------

async function look() {
  window.clearTimeout(timer);
  if (!page || !isOpen()) return;
  const here = page;
  let wait = LATER;
  try {
    const seen = [...here.seen].map(([number, what]) => [number, ...what].join(".")).join(",");
    const news = await fetchJson(`/data/live?seen=${seen}`);
    if (page !== here || !isOpen()) return;
    show(here, news);
    const busy = news.thoughts.some((/** @type {Thought} */ each) => isGoing(each));
    wait = busy || news.model.state === "loading" ? SOON : LATER;
  } catch (error) {
    if (page === here) say(here, messageOf(error), false);
  }
  window.clearTimeout(timer);
  timer = window.setTimeout(look, wait);
}

/** @param {Thought} thought */
const isGoing = (thought) => thought.state !== "done" && thought.state !== "failed";

/**
 * @param {Page} here
 * @param {News} news
 */
function show(here, news) {
  const { name, state, said, shape } = news.model;
  const head = document.getElementById("live-model");
  if (head) head.textContent = state === "ready" ? name : `${name} · ${state}`;
  here.form.know(shape);
  here.form.allow(state === "ended" ? "The model's process has ended." : "");
  say(here, said, state === "ended");
  for (const thought of news.thoughts) {
    here.thoughts.set(thought.number, thought);
    here.seen.set(thought.number, [thought.edition, thought.start + thought.tokens.length]);
    let pair = here.pairs.get(thought.pair);
    if (!pair) {
      pair = pairOf(thought, { stop, again: here.form });
      here.pairs.set(thought.pair, pair);
      here.list.prepend(pair.node);
    }
    pair.take(thought);
  }
  here.list.dataset.count = String(here.pairs.size);
}

/**
 * Say what the matter is, and offer to start the process again.
 * @param {Page} here
 * @param {string} text
 * @param {boolean} ended
 */
function say(here, text, ended) {
  if (here.said.dataset.text === text) return;
  here.said.dataset.text = text;
  here.said.hidden = !text;
  here.said.classList.toggle("error", ended);
  here.said.replaceChildren(el("span", "", text));
  if (!ended) return;
  const again = el("button", "button", "Start it again", { type: "button" });
  again.addEventListener("click", () => {
    again.disabled = true;
    post("/data/live/restart", {}).then(look, (error) => say(here, messageOf(error), true));
  });
  here.said.appendChild(again);
}

/** @param {number} number */
const stop = (number) => post("/data/live/stop", { number }).then(look, look);

// --- mounting -------------------------------------------------------------------------------------

/** @param {Boot | null} boot */
function mount(boot) {
  const root = document.getElementById("live-app");
  if (!root || !boot) return;
  const form = formOf(boot, async (asked) => {
    await post("/data/live/ask", asked);
    look();
  });
  const said = el("div", "live-said", null, { role: "status", hidden: "" });
  const list = el("div", "live-pairs", null, { "aria-label": "Thoughts", "data-count": "0" });
  const empty = el("p", "live-empty dim", "What is thought here appears below, as it comes.");
  const main = add(el("section", "live-main"), said, empty, list);
  root.replaceChildren(form.node, main);
  page = { root, form, said, list, pairs: new Map(), thoughts: new Map(), seen: new Map() };
  look();
}

pageKeys(() => (isOpen() ? page : null), {
  e: ({ form }) => form.focus(),
  x: ({ thoughts }) => {
    const running = [...thoughts.values()].find((each) => each.state === "running");
    if (running) stop(running.number);
  },
});

onTheme(() => {
  if (isOpen())
    for (const pair of page?.pairs.values() || []) pair.node.dispatchEvent(new Event("theme"));
});

clientside("live", { mount: quietly(mount) });
