// The chain of thought as text: one span a token, lines in blocks the browser skips off screen.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const BLOCK = 256; // tokens a block; it ends at the next line end
  const LONGEST = 2048; // a line longer than this is cut into several
  const NAMES = ["Prompt", "Thinking", "Answer"];

  rl.traceText = (view) => {
    const node = rl.el("div", "trace-text", null, {
      tabindex: "0",
      role: "region",
      "aria-label": "Tokens. Arrow keys move between tokens and lines.",
    });
    const tip = rl.el("div", "tip", null, { hidden: "", role: "tooltip" });
    const spans = [];
    const lineOf = new Uint32Array(view.count);
    const starts = []; // first token of each line
    const means = []; // bar beside each line
    const blocks = []; // {node, from, to}
    let lineMeans = null; // per line, from 0 to 1
    let focused = null;

    // --- making the spans -------------------------------------------------------------------

    function span(i) {
      const text = view.token(i);
      const bare = text.replace(/\n+$/, "");
      const breaks = text.length - bare.length;
      const item = rl.el("span", "t", bare);
      if (breaks) item.dataset.nl = "↵".repeat(Math.min(breaks, 3));
      if (text === "") item.classList.add("empty");
      if (/^<[^<>\s]{1,40}>$/.test(bare)) item.classList.add("special");
      item.tokenIndex = i;
      return item;
    }

    // Lines end after a token that ends in a newline, and where the phase changes.
    function cutLines() {
      const { phase } = view.data;
      for (let i = 0; i < view.count; i++) {
        const start = starts.length ? starts[starts.length - 1] : -1;
        const cut =
          i === 0 || phase[i] !== phase[i - 1] ||
          view.token(i - 1).endsWith("\n") || i - start >= LONGEST;
        if (cut) starts.push(i);
        lineOf[i] = starts.length - 1;
      }
    }

    function phaseHead(phase, line) {
      let to = line;
      while (to < starts.length && view.data.phase[starts[to]] === phase) to++;
      const tokens = (to < starts.length ? starts[to] : view.count) - starts[line];
      const head = rl.el("h3", "phase-head", NAMES[phase]);
      head.dataset.phase = phase;
      return rl.add(head, rl.el("span", "dim", `${tokens.toLocaleString("en")} tokens`));
    }

    function build() {
      cutLines();
      const all = document.createDocumentFragment();
      let block = null;
      let number = 0;
      for (let line = 0; line < starts.length; line++) {
        const from = starts[line];
        const to = line + 1 < starts.length ? starts[line + 1] : view.count;
        const phase = view.data.phase[from];
        const fresh = line === 0 || phase !== view.data.phase[from - 1];
        if (fresh || from - block.from >= BLOCK) {
          if (fresh) {
            all.appendChild(phaseHead(phase, line));
            number = 0;
          }
          block = { node: rl.el("div", "block"), from, to, lines: 0 };
          block.node.dataset.phase = phase;
          blocks.push(block);
          all.appendChild(block.node);
        }
        const row = rl.el("div", "line");
        row.dataset.n = ++number;
        for (let i = from; i < to; i++) row.appendChild((spans[i] = span(i)));
        row.appendChild((means[line] = rl.el("i", "line-mean")));
        block.node.appendChild(row);
        block.to = to;
        block.lines++;
      }
      for (const each of blocks) {
        each.node.style.containIntrinsicSize = `auto ${Math.round(Math.max(each.lines * 25, (each.to - each.from) * 1.2))}px`;
      }
      node.appendChild(all);
      document.body.querySelectorAll(".tip").forEach((old) => old.remove());
      document.body.appendChild(tip);
    }

    // --- colouring --------------------------------------------------------------------------

    // Only blocks on and near the screen are coloured at once; the others when they come near. So
    // the time to recolour does not grow with the trace.
    const NEAR = 800;
    let version = 0;

    function recolor() {
      version++;
      lineMeans = meansOfLines();
      freshen();
    }

    function freshen() {
      if (!view.paint) return;
      const top = node.scrollTop - NEAR;
      const bottom = node.scrollTop + node.clientHeight + NEAR;
      const stale = blocks.filter((block) => {
        if (block.version === version) return false;
        const { offsetTop, offsetHeight } = block.node;
        return offsetTop < bottom && offsetTop + offsetHeight > top;
      });
      stale.forEach(colorBlock);
    }

    function colorBlock(block) {
      const { bins, palette, kind } = view.paint;
      for (let i = block.from; i < block.to; i++) {
        spans[i].style.backgroundColor = palette[bins[i]] || "transparent";
      }
      const color = kind === "ramp" ? rl.colors.line(view.metric) : "transparent";
      for (let line = lineOf[block.from]; line <= lineOf[block.to - 1]; line++) {
        means[line].style.width = Math.round(56 * lineMeans[line]) + "px";
        means[line].style.backgroundColor = color;
      }
      block.version = version;
    }

    // Beside each line: the mean of the metric over it, on the scale of the largest.
    function meansOfLines() {
      const { kind, bins, values } = view.paint;
      if (kind !== "ramp") return new Float32Array(starts.length);
      const found = Float32Array.from(starts, (start, line) => {
        const to = line + 1 < starts.length ? starts[line + 1] : view.count;
        let [sum, known] = [0, 0];
        for (let i = start; i < to; i++) {
          if (Number.isNaN(values[i])) continue;
          sum += bins[i];
          known++;
        }
        return known ? sum / known : 0;
      });
      const top = found.reduce((a, b) => Math.max(a, b), 1e-6);
      return found.map((mean) => mean / top);
    }

    function focus(scroll) {
      if (focused) {
        focused.classList.remove("focused");
        focused.parentNode.classList.remove("current");
      }
      focused = view.pos === null ? null : spans[view.pos];
      if (!focused) return;
      focused.classList.add("focused");
      focused.parentNode.classList.add("current");
      if (scroll) reveal(focused, 3);
    }

    // Blocks that come on screen take their true height only then, so look again.
    function reveal(item, looks) {
      const box = node.getBoundingClientRect();
      const at = item.getBoundingClientRect();
      if (at.top < box.top + 64 || at.bottom > box.bottom - 48) {
        node.scrollTop += at.top - box.top - box.height * 0.4;
        freshen();
        if (looks > 1) requestAnimationFrame(() => item === focused && reveal(item, looks - 1));
      }
    }

    // The first token of the line after or before; stays where there is none.
    function lineStep(by) {
      if (view.pos === null) return 0;
      const line = lineOf[view.pos] + by;
      return line < 0 || line >= starts.length ? view.pos : starts[line];
    }

    // First and last token on screen, interpolated inside blocks: cheap, and good to a line.
    function visible() {
      const top = node.scrollTop;
      const bottom = top + node.clientHeight;
      const at = (y) => {
        let last = 0;
        for (const block of blocks) {
          const { offsetTop, offsetHeight } = block.node;
          if (y < offsetTop) break;
          const inside = Math.min(1, (y - offsetTop) / Math.max(1, offsetHeight));
          last = block.from + inside * (block.to - block.from);
        }
        return last;
      };
      return [at(top), at(bottom)];
    }

    // --- pointer ----------------------------------------------------------------------------

    function row(name, value) {
      return rl.add(rl.el("div", "tip-row"), rl.el("span", "dim", name), rl.el("b", "", value));
    }

    function showTip(item) {
      const i = item.tokenIndex;
      const { data } = view;
      tip.replaceChildren(
        rl.add(rl.el("div", "tip-head"), rl.el("code", "", rl.visible(view.token(i))),
          rl.el("span", "dim", `#${i}`)),
      );
      if (i > 0 || Number.isFinite(data.logprob[i])) { // nothing stands before the first token
        rl.add(tip, row("probability", Number.isNaN(data.logprob[i]) ? "not recorded" : rl.percent(Math.exp(data.logprob[i]))),
          row("entropy", rl.numberOr(data.entropy[i], 2, " nats")));
      }
      if (data.margin) tip.appendChild(row("margin", rl.numberOr(data.margin[i], 3)));
      const layer = view.layers.get(view.layer);
      if (layer && view.metric === "expert") {
        const known = layer.expert[i] < view.boot.experts;
        tip.appendChild(row(`layer ${view.layer}`, known ? `E${layer.expert[i]} · weight share ${rl.percent(layer.share[i])}` : "not recorded"));
      }
      place(item);
    }

    function place(item) {
      tip.hidden = false;
      const at = item.getClientRects()[0] || item.getBoundingClientRect();
      const left = Math.min(at.left, window.innerWidth - tip.offsetWidth - 12);
      const above = at.top - tip.offsetHeight - 8;
      tip.style.left = Math.max(8, left) + "px";
      tip.style.top = (above > 60 ? above : at.bottom + 8) + "px";
    }

    const tokenAt = (event) => event.target.closest && event.target.closest(".t");
    node.addEventListener("pointerover", (event) => {
      const item = tokenAt(event);
      if (item) showTip(item);
      else tip.hidden = true;
    });
    node.addEventListener("pointerleave", () => (tip.hidden = true));
    node.addEventListener("click", (event) => {
      const item = tokenAt(event);
      if (item && window.getSelection().isCollapsed) view.setPos(item.tokenIndex, false);
    });
    node.addEventListener("scroll", () => {
      tip.hidden = true;
      freshen();
      view.ribbon.window();
    }, { passive: true });

    return { node, build, recolor, focus, lineStep, visible };
  };
})();
