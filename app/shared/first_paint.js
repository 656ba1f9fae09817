// Sets the colour scheme before the first paint: a classic script in <head>, ahead of all modules.
// The key is Mantine's own, so that its provider and this page always agree.
(() => {
  const KEY = "mantine-color-scheme-value";
  // While the page is open: what a frame is told by the notebook around it, or what was chosen where
  // nothing may be kept, as in a mail.
  let chosen = document.documentElement.getAttribute("data-mantine-color-scheme");
  // Asked for of each mark that is drawn: the query is made once.
  const light = window.matchMedia("(prefers-color-scheme: light)");
  const preferred = () => (light.matches ? "light" : "dark");

  const kept = () => {
    try {
      return window.localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };

  /** @returns {Theme} */
  const theme = () => {
    const found = chosen ?? kept();
    return found === "dark" || found === "light" ? found : preferred();
  };

  /** @param {Theme} wanted */
  const setTheme = (wanted) => {
    try {
      if (chosen === null) window.localStorage.setItem(KEY, wanted);
      else chosen = wanted;
    } catch {
      chosen = wanted;
    }
    document.documentElement.setAttribute("data-mantine-color-scheme", wanted);
    window.dispatchEvent(new CustomEvent("ringlens:theme", { detail: wanted }));
  };

  window.ringlens = { theme, setTheme };
  document.documentElement.setAttribute("data-mantine-color-scheme", theme());
})();
