// Elements of the page. Text always enters as textContent: nothing here ever parses HTML.

/**
 * Make an element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} [className]
 * @param {string | number | null} [text]
 * @param {Record<string, string | number> | null} [attributes]
 * @returns {HTMLElementTagNameMap[K]}
 */
export const el = (tag, className, text, attributes) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = String(text);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, `${value}`);
  return node;
};

/**
 * Append children; returns the parent.
 * @template {Node} N
 * @param {N} parent
 * @param {...(Node | null)} children
 * @returns {N}
 */
export const add = (parent, ...children) => {
  for (const child of children) if (child) parent.appendChild(child);
  return parent;
};

/**
 * The element with an id, which must be there.
 * @param {string} id
 */
export const part = (id) => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`this page has no #${id}`);
  return found;
};

/**
 * What a selector names, at or around the element that an event happened at.
 * @param {Event} event
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export const hit = (event, selector) =>
  event.target instanceof Element ? event.target.closest(selector) : null;

/**
 * Whether a key is typed into a field, or meant for the browser.
 * @param {KeyboardEvent} event
 */
export const typing = (event) => {
  const node = event.target;
  if (event.metaKey || event.ctrlKey || event.altKey) return true;
  if (!(node instanceof HTMLElement)) return false;
  return node.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName);
};

/** Whether a dialog is open, to which all keys belong. */
export const inDialog = () => document.querySelector("dialog[open]") !== null;

/**
 * Have keys act on what a page shows, as long as it shows it.
 * @template T
 * @param {() => T | null} here What it shows; null while another page is open.
 * @param {Record<string, (shown: T) => unknown>} keys
 */
export function pageKeys(here, keys) {
  document.addEventListener("keydown", (event) => {
    const shown = here();
    if (!shown || typing(event) || inDialog() || !keys[event.key]) return;
    if (event.key === "Enter" && hit(event, "a, button")) return;
    event.preventDefault();
    keys[event.key](shown);
  });
}

/**
 * Whether a click asks for a link in a tab or window of its own.
 * @param {MouseEvent} event
 */
export const opensElsewhere = (event) =>
  event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0;

/**
 * Act when the browser has nothing to do; Safari does not say when, and acts a little later.
 * @param {() => void} act
 */
export const whenIdle = (act) =>
  "requestIdleCallback" in window ? requestIdleCallback(act) : setTimeout(act, 50);
