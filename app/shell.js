// What stands on every page: colour scheme, help, navigation, copy buttons.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const HELP = [
    ["Everywhere", [["?", "this help"], ["t", "dark or light"], ["g", "traces"], ["r", "routing"], ["s", "SQL"]]],
    ["A trace", [["← →", "previous, next token"], ["j k", "next, previous line"], ["[ ]", "previous, next layer"],
      ["1 … 5", "colour by entropy, surprise, margin, expert, phase"], ["n p", "next, previous trace"], ["Esc", "let go of the token"]]],
    ["Routing", [["[ ]", "previous, next layer"], ["← →", "previous, next expert"]]],
    ["SQL", [["Ctrl ↵", "run"], ["Esc", "cancel, or leave the editor"], ["e", "to the editor"], ["v", "table or chart"]]],
  ];

  function help() {
    let dialog = document.getElementById("help");
    if (!dialog) {
      dialog = rl.el("dialog", "help", null, { id: "help", "aria-label": "Keyboard" });
      dialog.appendChild(rl.el("h2", "", "Keyboard"));
      for (const [title, keys] of HELP) {
        const list = rl.el("dl");
        for (const [key, what] of keys) {
          const term = rl.el("dt");
          for (const each of key.split(" ")) term.appendChild(rl.el(each === "…" ? "span" : "kbd", "", each));
          rl.add(list, term, rl.el("dd", "", what));
        }
        rl.add(dialog, rl.el("h3", "", title), list);
      }
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
      document.body.appendChild(dialog);
    }
    if (dialog.open) dialog.close();
    else dialog.showModal();
  }

  const toggleTheme = () => rl.setTheme(rl.theme() === "dark" ? "light" : "dark");
  const KEYS = { "?": help, t: toggleTheme, g: () => rl.go("/"), r: () => rl.go("/routing"), s: () => rl.go("/sql") };

  document.addEventListener("keydown", (event) => {
    if (rl.typing(event) || !KEYS[event.key]) return;
    if (document.querySelector("dialog[open]") && event.key !== "?") return;
    event.preventDefault();
    KEYS[event.key]();
  });

  document.addEventListener("click", (event) => {
    const copy = event.target.closest && event.target.closest("[data-copy]");
    if (!copy) return;
    navigator.clipboard.writeText(copy.dataset.copy).then(() => {
      copy.classList.add("done");
      setTimeout(() => copy.classList.remove("done"), 1200);
    }, () => {});
  });

  // Ask for the version of the store: shows that the server answers, and when a commit came.
  const BEAT = 2000;
  let version = null;
  let known = null; // which store this page shows
  async function beat() {
    if (document.hidden) return;
    const banner = document.querySelector(".offline");
    try {
      const { version: now, store } = await rl.fetch("/data/version");
      if (banner) banner.remove();
      // Another store stands at the path: nothing of this page is true of it.
      if (known !== null && store !== known) return window.location.reload();
      known = store;
      const stats = document.getElementById("stats");
      if (stats && now !== (version || stats.dataset.version)) {
        window.dash_clientside.set_props("heartbeat", { data: now });
      }
      version = now;
    } catch (error) {
      if (banner) banner.textContent = error.message;
      else document.body.appendChild(rl.el("div", "offline", error.message, { role: "alert" }));
    }
  }
  setInterval(beat, BEAT);

  // The figures are made on the server: it learns of a new colour scheme by this store.
  window.addEventListener("ringlens:theme", (event) => {
    window.dash_clientside.set_props("theme", { data: event.detail });
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.shell = {
    theme: () => rl.theme(),
    toggle(clicks) {
      if (clicks) toggleTheme();
      return window.dash_clientside.no_update;
    },
    help(clicks) {
      if (clicks) help();
      return window.dash_clientside.no_update;
    },
    // Marks the navigation entry of the page that is open.
    nav() {
      const pathname = rl.pathname();
      const trace = pathname.match(/^\/trace\/(\d+)$/);
      document.title = (trace ? `Trace ${trace[1]} · ` : pathname === "/sql" ? "SQL · " : "") + "ringlens";
      const pages = ["traces", "routing", "sql"];
      const at = pages.find((name) => pathname.startsWith(`/${name}`)) || "traces";
      return pages.map((name) => "nav-item" + (name === at ? " active" : ""));
    },
  };
})();
