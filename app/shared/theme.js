// The colour scheme, which first_paint.js has set.

/** @returns {Theme} */
export const theme = () => window.ringlens.theme();

export const toggleTheme = () => window.ringlens.setTheme(theme() === "dark" ? "light" : "dark");

/**
 * Have a function told of each new colour scheme.
 * @param {(theme: Theme) => void} act
 */
export const onTheme = (act) => window.addEventListener("ringlens:theme", () => act(theme()));

/**
 * A colour of the style sheet.
 * @param {string} name
 */
export const ink = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();
