// What shows the pages: the dashboard's server, or a bundle of files, which puts itself in its place.

import { url } from "./address.js";
import { el, opensElsewhere } from "./dom.js";

/**
 * @typedef {object} Host
 * @property {(path: string, options?: RequestInit) => Promise<any>} fetchJson
 * @property {(href: string) => void} go
 * @property {(href: string, className: string, text: string) => HTMLElement} link
 */

/** @type {Host} */
const server = {
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

let host = server;

/**
 * Have another host answer.
 * @param {Host} other
 */
export const setHost = (other) => {
  host = other;
};

/**
 * The JSON at a path. Throws an error whose message can be shown.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export const fetchJson = (path, options) => host.fetchJson(path, options);

/**
 * Open a page.
 * @param {string} href
 */
export const go = (href) => host.go(href);

/**
 * A link that opens in place, yet is a real link: middle click, copy address, screen readers.
 * @param {string} href
 * @param {string} className
 * @param {string} text
 */
export const link = (href, className, text) => host.link(href, className, text);
