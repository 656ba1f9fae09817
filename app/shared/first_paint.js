// Sets the colour scheme before the first paint; loaded in <head>, ahead of everything else.
// The key is Mantine's own, so that its provider and this page always agree.
(function () {
  const KEY = "mantine-color-scheme-value";
  const rl = (window.ringlens = window.ringlens || {});
  const preferred = () =>
    window.matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";

  rl.theme = () => {
    const kept = window.localStorage.getItem(KEY);
    return kept === "dark" || kept === "light" ? kept : preferred();
  };

  rl.setTheme = (theme) => {
    window.localStorage.setItem(KEY, theme);
    document.documentElement.setAttribute("data-mantine-color-scheme", theme);
    window.dispatchEvent(new CustomEvent("ringlens:theme", { detail: theme }));
  };

  document.documentElement.setAttribute("data-mantine-color-scheme", rl.theme());
})();
