// What may stand at the caret of a query: tables, columns of those it names, keywords, functions.

/**
 * A table or view, and of each column its name, type and meaning.
 * @typedef {{name: string, kind: string, meaning: string, columns: [string, string, string][]}} Table
 */
/** @typedef {{tables: Table[], functions: string[], keywords: string[]}} Names */
/** @typedef {{name: string, kind: string}} Completion */

const MOST = 60; // in the list

const STRINGS = /--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)|'(?:[^']|'')*(?:'|$)/g;
const TABLES = /\b(?:from|join)\s+(\w+)(?:\s+(?:as\s+)?(\w+))?/gi;

/**
 * The word that ends at the caret; what stands before its point, if it has one.
 * @param {string} before
 */
export const wordAt = (before) => {
  const [, owner, word] = /(?:(\w+)\.)?(\w*)$/.exec(before) || [];
  return { owner: owner || "", word: word || "" };
};

/**
 * Whether the caret stands in a text or a comment, where nothing is completed.
 * @param {string} before
 */
const isQuoted = (before) => {
  const closed = before.replace(STRINGS, (piece) =>
    /^'.*'$/s.test(piece) || /\*\/$/.test(piece) ? "" : "\0",
  );
  return closed.endsWith("\0");
};

/**
 * Tables that the query names, by name and by alias.
 * @param {string} query
 * @param {Names} names
 */
const named = (query, names) => {
  /** @type {Map<string, Table>} */
  const found = new Map();
  for (const [, name, alias] of query.replace(STRINGS, " ").matchAll(TABLES)) {
    const table = names.tables.find((each) => each.name === name.toLowerCase());
    if (!table) continue;
    found.set(table.name, table);
    if (alias && !names.keywords.includes(alias.toLowerCase())) found.set(alias, table);
  }
  return found;
};

/** @param {Iterable<Table>} tables */
const columnsOf = (tables) => {
  /** @type {Map<string, Completion>} */
  const found = new Map();
  for (const { columns } of tables) {
    for (const [name, kind] of columns) found.set(name, { name, kind });
  }
  return [...found.values()];
};

/**
 * What may stand at a place of a query, the likeliest first.
 * @param {string} query
 * @param {number} caret
 * @param {Names} names
 * @returns {Completion[]}
 */
export const completions = (query, caret, names) => {
  const before = query.slice(0, caret);
  if (isQuoted(before)) return [];
  const { owner, word } = wordAt(before);
  const used = named(query, names);
  const tables = names.tables.map(({ name, kind }) => ({ name, kind }));
  /** @param {Completion[]} all */
  const fitting = (all) => {
    const start = word.toLowerCase();
    const found = all.filter(({ name }) => name.startsWith(start) && name !== start);
    return found.slice(0, MOST);
  };
  if (owner) {
    const table = used.get(owner) || names.tables.find((each) => each.name === owner);
    return fitting(table ? columnsOf([table]) : []);
  }
  if (/\b(from|join)\s+\w*$/i.test(before)) return fitting(tables);
  const known = used.size ? [...new Set(used.values())] : names.tables;
  return fitting([
    ...columnsOf(known),
    ...tables,
    ...names.keywords.map((name) => ({ name, kind: "keyword" })),
    ...names.functions.map((name) => ({ name, kind: "function" })),
  ]);
};
