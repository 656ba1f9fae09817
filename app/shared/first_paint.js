// Sets the colour scheme before the first paint: a classic script in <head>, ahead of all modules.
// The key is Mantine's own, so that its provider and this page always agree.
(() => {
  const KEY = "mantine-color-scheme-value";
  const preferred = () =>
    window.matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";

  /** @returns {Theme} */
  const theme = () => {
    const kept = window.localStorage.getItem(KEY);
    return kept === "dark" || kept === "light" ? kept : preferred();
  };

  /** @param {Theme} wanted */
  const setTheme = (wanted) => {
    window.localStorage.setItem(KEY, wanted);
    document.documentElement.setAttribute("data-mantine-color-scheme", wanted);
    window.dispatchEvent(new CustomEvent("ringlens:theme", { detail: wanted }));
  };

  window.ringlens = { theme, setTheme };
  document.documentElement.setAttribute("data-mantine-color-scheme", theme());
})();
