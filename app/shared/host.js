// What shows a view, and answers what it asks: for the pages of the dashboard its server. A view that
// is also shown elsewhere (a trace: in a bundle, in a notebook) is given its host.

import { param, setParams, url } from "./address.js";
import { el, opensElsewhere } from "./dom.js";

/**
 * @typedef {object} Host
 * @property {(path: string, options?: RequestInit) => Promise<any>} fetchJson The JSON at a path of
 *   the dashboard; throws an error whose message can be shown.
 * @property {(href: string) => void} go Opens a page.
 * @property {(href: string, className: string, text: string) => HTMLElement} link A link to a page,
 *   or its text where there is no such page.
 * @property {(name: string) => string | null} param What the view that is asked for has of a name.
 * @property {(changes: Record<string, string | number | null | undefined>) => void} setParams
 *   Keeps what the view shows now, under the names of `param`.
 */

/** @type {Host} */
export const server = {
  param,
  setParams,

  async fetchJson(path, options) {
    let response;
    try {
      response = await fetch(url(path), options);
    } catch (error) {
      throw new Error("The server does not answer. Is `ringlens app` still running?", {
        cause: error,
      });
    }
    const body = await response.json().catch(() => null);
    if (response.ok && body !== null) return body;
    const said = body?.error;
    throw new Error(
      said || `The server answered ${response.status} to ${path}. Load the page again.`,
    );
  },

  go(href) {
    window.history.pushState({}, "", url(href));
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  },

  link(href, className, text) {
    const node = el("a", className, text, { href: url(href) });
    node.addEventListener("click", (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      event.stopPropagation();
      go(href);
    });
    return node;
  },
};

/**
 * The JSON at a path of the dashboard. Throws an error whose message can be shown.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export const fetchJson = (path, options) => server.fetchJson(path, options);

/**
 * Open a page of the dashboard.
 * @param {string} href
 */
export const go = (href) => server.go(href);

/**
 * A link that opens in place, yet is a real link: middle click, copy address, screen readers.
 * @param {string} href
 * @param {string} className
 * @param {string} text
 */
export const link = (href, className, text) => server.link(href, className, text);
