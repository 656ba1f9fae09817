// A bundle's pages without a server: a list of traces, one trace, its usage of experts.
// The address is index.html?trace=3&view=usage; the trace page's own parameters stand beside.
(function () {
  const rl = window.ringlens;
  const ROUTING_BLOCK = 64;
  const GUTTER = 40; // pixels for the layers' names
  const PHASES = ["all", "prompt", "think", "answer"];
  const root = document.getElementById("page");
  let boot = null;

  // Addresses of the dashboard as files of the bundle; blocks are named by their first token.
  const file = (path) => {
    const [, kind, pos] = path.match(/\/(routing|heads)\/(\d+)$/) || [];
    const size = kind === "heads" ? boot.heads_block : ROUTING_BLOCK;
    const name = kind ? path.replace(/\d+$/, String(pos - (pos % size))) : path;
    return name.replace(/^\//, "") + ".json";
  };
  rl.fetch = async (path) => {
    const response = await fetch(file(path));
    if (!response.ok) throw new Error(`The bundle lacks ${file(path)} (${response.status}).`);
    return response.json();
  };
  rl.go = (href) => {
    const [, trace] = href.match(/^\/trace\/(\d+)$/) || [];
    window.location.search = trace ? `?trace=${trace}` : "";
  };
  // The dashboard's page of an expert is not part of a bundle: its links become plain text.
  rl.link = (href, className, text) => rl.el("span", className, text);

  const tag = (text, href) => rl.el("a", "button", text, { href });

  function list(index) {
    const header = rl.add(rl.el("header", "page-header"), rl.el("h1", "", index.title),
      rl.el("p", "dim", `${index.traces.length} traces, exported from ringlens`));
    const names = ["Trace", "Prompt", "Task", "Answer", "Tokens", "Entropy"];
    const numbers = new Set(["Trace", "Tokens", "Entropy"]);
    const head = rl.add(rl.el("thead"), rl.add(rl.el("tr"),
      ...names.map((name) => rl.el("th", numbers.has(name) ? "number" : "", name))));
    const body = rl.el("tbody");
    for (const trace of index.traces) {
      const link = rl.el("a", "", trace.prompt, { href: `?trace=${trace.trace_id}` });
      const verdict = trace.correct === null ? null
        : rl.el("span", "pill " + (trace.correct ? "good" : "bad"), trace.correct ? "correct" : "wrong");
      const answer = rl.add(rl.el("td"), verdict, rl.el("span", "", ` ${trace.answer ?? ""}`));
      rl.add(body, rl.add(rl.el("tr"), rl.el("td", "number", trace.trace_id),
        rl.add(rl.el("td"), link), rl.el("td", "", trace.task ?? ""), answer,
        rl.el("td", "number", trace.tokens),
        rl.el("td", "number", trace.entropy === null ? "not recorded" : rl.number(trace.entropy, 3))));
    }
    const table = rl.add(rl.el("table"), head, body);
    const box = rl.add(rl.el("div", "bundle-list"), table);
    root.replaceChildren(rl.add(rl.el("div", "page"), header, box));
  }

  function header(trace, view) {
    const links = rl.add(rl.el("div", "buttons"),
      view === "usage" ? tag("Text", `?trace=${trace.trace_id}`) : null,
      view !== "usage" && boot.has_routing ? tag("Usage", `?trace=${trace.trace_id}&view=usage`) : null,
      boot.previous === null ? null : tag("Previous", `?trace=${boot.previous}`),
      boot.next === null ? null : tag("Next", `?trace=${boot.next}`));
    const crumbs = rl.add(rl.el("div", "crumbs"), rl.el("a", "", "Traces", { href: "?" }),
      rl.el("span", "dim", "/"), rl.el("span", "", `Trace ${trace.trace_id}`));
    const facts = rl.el("div", "fact-row");
    for (const fact of [`${trace.tokens} tokens`, `${trace.n_prompt} prompt`,
      `${trace.n_think} think`, `${trace.n_answer} answer`, trace.finish_reason,
      `${trace.model}, ${trace.mode}`]) rl.add(facts, rl.el("span", "", fact));
    return rl.add(rl.el("header", "page-header"),
      rl.add(rl.el("div", "crumb-row"), crumbs, links),
      rl.add(rl.el("div", "title-row"), rl.el("h1", "", trace.prompt)), facts);
  }

  // --- usage --------------------------------------------------------------------------------

  // Share of the tokens that chose each expert, [layers, experts], for a phase or all of them.
  const shares = (body, phase) => {
    const { layers, experts } = body;
    const chosen = phase === "all" ? Object.keys(body.phases) : [phase];
    const count = new Float64Array(layers.length * experts);
    let tokens = 0;
    for (const name of chosen.filter((n) => body.phases[n])) {
      tokens += body.phases[name].tokens;
      rl.decode(body.phases[name].n, "u4").forEach((n, i) => (count[i] += n));
    }
    return { count, tokens, share: count.map((n) => n / tokens) }; // NaN where no token was routed
  };

  function draw(canvas, body, found) {
    const { layers, experts } = body;
    const palette = rl.colors.heat();
    const top = found.share.reduce((a, b) => (b > a ? b : a), 0) || 1;
    const height = Math.max(7, Math.min(34, Math.floor(600 / layers.length)));
    const width = canvas.clientWidth - GUTTER;
    const context = rl.context(canvas, canvas.clientWidth, height * layers.length);
    const every = Math.ceil(14 / height);
    context.font = "11px sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = window.getComputedStyle(canvas).color;
    layers.forEach((layer, row) => {
      if (row % every === 0) context.fillText(`L${layer}`, 4, (row + 0.5) * height);
    });
    found.share.forEach((share, i) => {
      if (Number.isNaN(share)) return;
      const x = i % experts, y = Math.floor(i / experts);
      context.fillStyle = palette[Math.min(palette.length - 1, Math.floor((share / top) * (palette.length - 1)))];
      const left = Math.floor((x * width) / experts);
      const right = Math.ceil(((x + 1) * width) / experts);
      context.fillRect(GUTTER + left, y * height, right - left, height - 1);
    });
    return height;
  }

  async function usage(box, trace) {
    const body = await rl.fetch(`/data/trace/${trace.trace_id}/usage`);
    const note = rl.el("p", "bundle-note", "Share of tokens that chose an expert: a row is a layer, a column an expert.");
    const canvas = rl.el("canvas", "", null, { role: "img", "aria-label": "Experts by layer" });
    const bar = rl.el("div", "toolbar");
    const group = rl.el("div", "segments", null, { role: "group", "aria-label": "Phase" });
    let found, height;
    const show = (phase) => {
      for (const each of group.children) each.setAttribute("aria-pressed", String(each.dataset.phase === phase));
      found = shares(body, phase);
      height = draw(canvas, body, found);
    };
    for (const phase of PHASES.filter((p) => p === "all" || body.phases[p])) {
      const button = rl.el("button", "", phase, { type: "button", "data-phase": phase });
      button.addEventListener("click", () => show(phase));
      group.appendChild(button);
    }
    canvas.addEventListener("mousemove", (event) => {
      const at = canvas.getBoundingClientRect();
      const inside = (event.clientX - at.left - GUTTER) / (at.width - GUTTER);
      const expert = Math.floor(inside * body.experts);
      const row = Math.floor((event.clientY - at.top) / height);
      if (!(row in body.layers) || expert < 0 || expert >= body.experts) return;
      const i = row * body.experts + expert;
      note.textContent = `Layer ${body.layers[row]}, expert ${expert}: chosen for ${found.count[i]} of ${found.tokens} tokens, ${rl.percent(found.share[i])}`;
    });
    rl.add(box, rl.add(bar, rl.el("span", "label", "Phase"), group),
      rl.add(rl.el("div", "bundle-map"), note, canvas));
    show("all");
    window.addEventListener("resize", () => (height = draw(canvas, body, found)));
    box.dataset.ready = "true";
  }

  async function open() {
    const id = rl.intParam("trace");
    const index = await rl.fetch("/data/index");
    if (id === null) return list(index);
    const trace = index.traces.find((each) => each.trace_id === id);
    if (!trace) throw new Error(`There is no trace ${id} in this bundle.`);
    boot = await rl.fetch(`/data/trace/${id}/boot`);
    const view = rl.param("view");
    const page = rl.add(rl.el("div", "page trace-page"), header(trace, view));
    root.replaceChildren(page);
    if (view === "usage") {
      const box = rl.el("div", "bundle-usage");
      page.appendChild(box);
      return usage(box, trace);
    }
    page.appendChild(rl.el("div", "trace-app", null, { id: "trace-app" }));
    window.dash_clientside.trace.mount(boot);
  }

  open().catch((error) => {
    root.replaceChildren(rl.add(rl.el("div", "state"), rl.el("h2", "", "This cannot be shown"),
      rl.el("p", "", error.message)));
  });
})();
