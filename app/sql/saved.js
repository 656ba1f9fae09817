// Saved queries, kept by this browser.

const SAVED = "ringlens-sql-saved";
const MOST = 50;

/** @typedef {{name: string, query: string}} Saved */

/** @returns {Saved[]} */
export const saved = () => {
  try {
    const found = JSON.parse(window.localStorage.getItem(SAVED) || "[]");
    return Array.isArray(found)
      ? found.filter((each) => each && typeof each.query === "string")
      : [];
  } catch {
    return [];
  }
};

/** @param {Saved[]} list */
const keep = (list) => window.localStorage.setItem(SAVED, JSON.stringify(list));

/**
 * Named by its first comment, or else by how it begins.
 * @param {string} query
 */
const nameOf = (query) => {
  const comment = query.match(/^\s*--\s*(.+)/);
  return (comment ? comment[1] : query.replace(/\s+/g, " ")).trim().slice(0, 80);
};

/** @param {string} query */
export const save = (query) =>
  keep([{ name: nameOf(query), query }, ...without(query)].slice(0, MOST));

/** @param {string} query */
export const forget = (query) => keep(without(query));

/** @param {string} query */
const without = (query) => saved().filter((each) => each.query !== query);
