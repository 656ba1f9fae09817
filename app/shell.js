// What stands on every page: colour scheme, help, navigation, copy buttons.

import { PAGES } from "./pages.js";
import { commandPalette } from "./palette/palette.js";
import { pathname } from "./shared/address.js";
import { clientside, quietly, setProps } from "./shared/dash.js";
import "./shared/copy.js";
import { el, inDialog, typing } from "./shared/dom.js";
import "./shared/glossary.js";
import { toggleHelp } from "./shared/help.js";
import { fetchJson, go } from "./shared/host.js";
import { messageOf } from "./shared/text.js";
import { onTheme, theme, toggleTheme } from "./shared/theme.js";

// --- the page that is open ------------------------------------------------------------------------

/** @param {string} path */
const partsOf = (path) => path.split("/").filter(Boolean);

/** The page of the address and its title; null where there is none. */
function open() {
  const given = partsOf(pathname());
  for (const page of PAGES) {
    const wanted = partsOf(page.path);
    let title = page.title;
    const fits = wanted.every((part, i) => {
      if (!/^<.*>$/.test(part)) return part === given[i];
      title = title.replace(part, () => given[i]);
      return true;
    });
    if (fits && wanted.length === given.length) return { page, title };
  }
  return null;
}

// --- keys -----------------------------------------------------------------------------------------

/** @returns {[string, [string, string][]][]} Titles, and their keys with what they do. */
const sections = () => [
  [
    "Everywhere",
    [
      ["?", "this help"],
      ["Ctrl K", "go to a page, an expert, a trace, a run"],
      ["t", "dark or light"],
      ...PAGES.flatMap((page) =>
        page.key ? [/** @type {[string, string]} */ ([page.key, page.label || page.title])] : [],
      ),
    ],
  ],
  ...PAGES.filter((page) => page.keys.length).map(
    (page) =>
      /** @type {[string, [string, string][]]} */ ([page.title.replace(/ ?<.*>/, ""), page.keys]),
  ),
];

const help = () => toggleHelp(sections);

const palette = commandPalette(() => [
  ...PAGES.flatMap(({ label, key, path }) =>
    label ? [{ kind: "page", title: label, about: "", key: key || "", act: () => go(path) }] : [],
  ),
  { kind: "do", title: "Theme", about: "dark or light", key: "t", act: toggleTheme },
  { kind: "do", title: "Keyboard", about: "all keys, help", key: "?", act: help },
]);

// Also while one types into a field.
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey)) return;
  if (event.altKey || event.shiftKey) return;
  event.preventDefault();
  palette();
});

/** @type {Record<string, () => void>} */
const KEYS = { "?": help, t: toggleTheme };
for (const { key, path } of PAGES) if (key) KEYS[key] = () => go(path);

document.addEventListener("keydown", (event) => {
  if (typing(event) || !KEYS[event.key]) return;
  if (inDialog() && event.key !== "?") return;
  event.preventDefault();
  KEYS[event.key]();
});

// --- the address ----------------------------------------------------------------------------------

// Scripts change the query of an address as one works (setParams), and Dash is not told. A link to
// the address that it knows, such as that of this page's own entry, would change nothing: tell it.
const whole = () => window.location.pathname + window.location.search;
let built = whole(); // what Dash made the page of

function moved() {
  const now = whole();
  if (now === built) setProps("url", { search: window.location.search });
  built = now;
}
for (const type of ["_dashprivate_pushstate", "popstate"]) window.addEventListener(type, moved);

// --- the server -----------------------------------------------------------------------------------

// Ask for the version of the store: shows that the server answers, and when a commit came.
const BEAT = 2000;
/** @type {string | null} */
let known = null; // which store this page shows

async function beat() {
  if (document.hidden) return;
  const banner = document.querySelector(".offline");
  try {
    const { version, store, said } = await fetchJson("/data/version");
    banner?.remove();
    // Another store stands at the path: nothing of this page is true of it.
    if (known !== null && store !== known) return window.location.reload();
    known = store;
    window.dispatchEvent(new CustomEvent("ringlens:version", { detail: version }));
    window.dispatchEvent(new CustomEvent("ringlens:said", { detail: said }));
  } catch (error) {
    const said = messageOf(error);
    if (banner) banner.textContent = said;
    else document.body.appendChild(el("div", "offline", said, { role: "alert" }));
  }
}
setInterval(beat, BEAT);

// The figures are made on the server: it learns of a new colour scheme by this store.
onTheme((now) => setProps("theme", { data: now }));

clientside("shell", {
  theme,
  toggle: quietly((clicks) => clicks && toggleTheme()),
  help: quietly((clicks) => clicks && help()),
  palette: quietly((clicks) => clicks && palette()),

  /** Marks the navigation entry of the page that is open, and names the tab after it. */
  nav() {
    const found = open();
    document.title = `${found?.title ? `${found.title} · ` : ""}ringlens`;
    const at = found && (found.page.label ? found.page.name : found.page.under);
    return PAGES.filter((page) => page.label).map(
      (page) => `nav-item${page.name === at ? " active" : ""}`,
    );
  },
});
