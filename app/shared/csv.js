// Tables as CSV files, and files that the browser saves.

/**
 * @typedef {string | number | boolean | null} Cell
 */

/**
 * Quoted where need be. A text that a spreadsheet would take for a formula gets a quote in front.
 * @param {Cell} value
 */
const field = (value) => {
  if (value === null || (typeof value === "number" && !Number.isFinite(value))) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : `${value}`;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
};

/**
 * @param {string[]} columns
 * @param {Cell[][]} rows
 */
export const csvOf = (columns, rows) =>
  [columns, ...rows].map((row) => `${row.map(field).join(",")}\r\n`).join("");

/**
 * Have the browser save a file.
 * @param {string} name
 * @param {Blob} blob
 */
export const save = (name, blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
