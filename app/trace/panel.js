// The panel of the focused token: its routing on every layer, one layer in detail, its heads.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const PHASES = ["prompt", "think", "answer"];
  const HEADS = [
    { id: "entropy", label: "Entropy", unit: " nats" },
    { id: "first_weight", label: "On first token", unit: "" },
    { id: "previous_weight", label: "On previous token", unit: "" },
    { id: "output_norm", label: "Output norm", unit: "" },
  ];

  const NO_EXPERT = 0xffff; // of a token without a routing row

  // Blocks of records around a token, fetched once and kept.
  function blocks(view, kind, decode) {
    const kept = [];
    const waiting = new Map();
    const find = (pos) => kept.find((b) => pos >= b.start && pos < b.start + b.tokens);
    async function load(pos) {
      const found = find(pos);
      if (found) return found;
      const key = pos >> 3;
      if (!waiting.has(key)) {
        const path = `/data/trace/${view.boot.trace_id}/${kind}/${pos}`;
        waiting.set(key, rl.fetch(path).then((body) => {
          waiting.delete(key);
          const block = find(pos) || decode(body);
          if (!kept.includes(block)) kept.push(block);
          return block;
        }, (error) => {
          waiting.delete(key);
          throw error;
        }));
      }
      return waiting.get(key);
    }
    return { find, load };
  }

  const decodeRouting = (body) => ({
    ...body,
    ids: rl.decode(body.ids, "u2"),
    weights: rl.decode(body.weights, "f4"),
    affinities: rl.decode(body.affinities, "f4"),
    biasFlips: rl.decode(body.bias_flips, "u1"),
    margin: rl.decode(body.margin, "f4"),
    groupMargin: rl.decode(body.group_margin, "f4"),
    entropy: rl.decode(body.entropy, "f4"),
  });

  function decodeHeads(body) {
    const block = { start: body.start, tokens: body.tokens, layers: body.layers };
    for (const { id } of HEADS) block[id] = rl.decode(body[id], "f4");
    return block;
  }

  rl.tracePanel = (view) => {
    const { boot } = view;
    const node = rl.el("aside", "trace-panel", null, { "aria-label": "Focused token" });
    const routing = blocks(view, "routing", decodeRouting);
    const heads = blocks(view, "heads", decodeHeads);

    function show() {
      const pos = view.pos;
      if (pos === null) return node.replaceChildren(hint());
      const old = node.scrollTop;
      node.replaceChildren(head(pos));
      if (!boot.has_routing) node.appendChild(missing("routing"));
      else section(routing, pos, drawRouting);
      if (!boot.has_heads) node.appendChild(missing("heads"));
      else section(heads, pos, drawHeads);
      node.scrollTop = old;
    }

    // Draw at once what is here; fetch what is not, and draw it unless the focus has moved on.
    function section(store, pos, draw) {
      const box = rl.el("div", "panel-section");
      node.appendChild(box);
      const block = store.find(pos);
      if (block) {
        draw(box, block, pos);
        for (const near of [pos - 8, pos + 8]) {
          if (near >= 0 && near < view.count && !store.find(near)) store.load(near).catch(() => {});
        }
        return;
      }
      box.classList.add("pending");
      store.load(pos).then(
        (fresh) => view.pos === pos && document.contains(box) &&
          (box.classList.remove("pending"), draw(box, fresh, pos)),
        (error) => box.appendChild(rl.el("p", "error", error.message)),
      );
    }

    function hint() {
      const box = rl.el("div", "panel-hint");
      const keys = [["← →", "token"], ["j k", "line"], ["[ ]", "layer"], ["1 – 5", "colour"], ["?", "all keys"]];
      const list = rl.el("dl");
      for (const [key, what] of keys) {
        const term = rl.el("dt");
        for (const each of key.split(" ")) term.appendChild(each === "–" ? rl.el("span", "", each) : rl.el("kbd", "", each));
        rl.add(list, term, rl.el("dd", "", what));
      }
      return rl.add(box, rl.el("h2", "", "Choose a token"),
        rl.el("p", "", "Click one in the text, or on the ribbon, to see which experts were chosen for it on every layer, and what each head looked at."), list);
    }

    function missing(table) {
      return rl.add(rl.el("div", "panel-section"), rl.el("p", "dim",
        `Run ${boot.run_id} did not record ${table}. Capture again with record= including "${table}".`));
    }

    // --- the token --------------------------------------------------------------------------

    function head(pos) {
      const { data } = view;
      const phase = PHASES[data.phase[pos]];
      const box = rl.el("div", "panel-head", null, { "aria-live": "polite" });
      const title = rl.add(rl.el("div", "panel-title"),
        rl.el("code", "token-glyph", rl.visible(view.token(pos))),
        rl.el("span", `phase-tag ${phase}`, phase),
        rl.el("span", "dim", `#${pos} · id ${data.ids[pos]}`));
      const facts = rl.el("div", "facts");
      const fact = (name, value, unit) => facts.appendChild(
        rl.add(rl.el("div", "fact"), rl.el("span", "dim", name),
          rl.add(rl.el("b", "", value), rl.el("i", "", unit || ""))));
      // The first token is not predicted; of another, a missing number was not recorded.
      const none = pos === 0 && boot.recorded.logprob ? "–" : "not recorded";
      const known = (value, text, unit) => (Number.isNaN(value) ? [none] : [text, unit]);
      fact("probability", ...known(data.logprob[pos], rl.percent(Math.exp(data.logprob[pos]))));
      fact("logprob", ...known(data.logprob[pos], rl.number(data.logprob[pos], 2), "nats"));
      fact("entropy", ...known(data.entropy[pos], rl.number(data.entropy[pos], 2), "nats"));
      return rl.add(box, title, facts);
    }

    // --- routing ----------------------------------------------------------------------------

    function at(block, s, pos) {
      const k = boot.k;
      const row = s * block.tokens + (pos - block.start);
      let total = 0;
      for (let r = 0; r < k; r++) total += block.weights[row * k + r];
      const chosen = Array.from({ length: k }, (_, r) => ({
        expert: block.ids[row * k + r],
        weight: block.weights[row * k + r],
        share: block.weights[row * k + r] / total,
        affinity: block.affinities[row * k + r],
        bias: Boolean(block.biasFlips[row * k + r]),
      }));
      return {
        layer: block.layers[s], chosen, total, shutOut: block.shut_out[row],
        margin: block.margin[row], groupMargin: block.groupMargin[row], entropy: block.entropy[row],
      };
    }

    function chip(choice, largest) {
      const item = rl.el("span", "chip", String(choice.expert));
      item.style.backgroundColor = rl.colors.expertFill(choice.expert, boot);
      if (!boot.has_weights) {
        item.title = `expert ${choice.expert}`;
        return item;
      }
      const bar = rl.el("i");
      bar.style.width = 100 * Math.min(1, choice.share / largest) + "%";
      bar.style.backgroundColor = rl.colors.expertLine(choice.expert, boot);
      item.appendChild(bar);
      if (choice.bias) item.classList.add("by-bias");
      item.title = `expert ${choice.expert}: weight share ${rl.percent(choice.share)}, affinity ` +
        rl.number(choice.affinity, 3) + (choice.bias ? ", chosen only because of its bias" : "");
      return item;
    }

    function drawRouting(box, block, pos) {
      const order = boot.has_weights ? "heaviest first" : "in no order";
      box.appendChild(rl.add(rl.el("h3", "", "Experts by layer"),
        rl.el("span", "dim", `${order} · hue: group`)));
      const records = block.layers.map((_, s) => at(block, s, pos));
      if (!records.length || records[0].chosen[0].expert === NO_EXPERT) {
        box.appendChild(rl.el("p", "dim", "The server reported no routing of this token: it never " +
          "does of the last one, nor of those before the offset that it was asked for."));
        return;
      }
      const largest = Math.max(...records.map((r) => r.chosen[0].share));
      const wide = Math.max(0, ...records.map((r) => r.shutOut.length)) > 0;
      const table = rl.el("table", "routing-grid" + (boot.k > 5 ? " dense" : ""));
      const header = rl.el("tr");
      rl.add(header, rl.el("th", "", "Layer"), rl.el("th", "", "Chosen", { colspan: boot.k }));
      if (wide) rl.add(header, rl.el("th", "", "Shut out", { title: "kept out by the group limit alone" }));
      if (boot.has_weights) header.appendChild(rl.el("th", "num", "Margin"));
      rl.add(table, rl.add(rl.el("thead"), header));
      const body = rl.el("tbody");
      for (const record of records) body.appendChild(layerRow(record, largest, wide));
      const scroller = rl.add(rl.el("div", "routing-scroll"), rl.add(table, body));
      box.appendChild(scroller);
      if (boot.has_weights) box.appendChild(rl.add(rl.el("p", "grid-key"), rl.el("i", "key-bias"), rl.el("span", "", "by bias"),
        rl.el("i", "key-shut"), rl.el("span", "", "shut out by group"), rl.el("i", "key-close"),
        rl.el("span", "", "margin < 0.01")));
      const current = body.querySelector(".current");
      if (current && records.length > 14) {
        scroller.scrollTop = current.offsetTop - scroller.clientHeight / 2;
      }
      const record = records.find((r) => r.layer === view.layer);
      if (record) drawLayer(box, record);
    }

    function layerRow(record, largest, wide) {
      const row = rl.el("tr", record.layer === view.layer ? "current" : "");
      row.dataset.layer = record.layer;
      const name = rl.el("button", "", `L${record.layer}`, { type: "button" });
      row.addEventListener("click", () => view.setLayer(record.layer));
      row.appendChild(rl.add(rl.el("th", "", null, { scope: "row" }), name));
      for (const choice of record.chosen) row.appendChild(rl.add(rl.el("td"), chip(choice, largest)));
      if (wide) {
        const cell = rl.el("td", "shut");
        const most = boot.k > 5 ? 2 : 3;
        for (const expert of record.shutOut.slice(0, most)) cell.appendChild(ghost(expert));
        if (record.shutOut.length > most) cell.appendChild(rl.el("span", "dim", `+${record.shutOut.length - most}`));
        row.appendChild(cell);
      }
      if (!boot.has_weights) return row;
      const margin = rl.el("td", "num" + (record.margin < 0.01 ? " close" : ""), rl.number(record.margin, 3));
      return rl.add(row, margin);
    }

    function ghost(expert) {
      const item = rl.el("span", "ghost", String(expert));
      item.style.color = rl.colors.expertLine(expert, boot);
      item.title = `expert ${expert} scored among the ${boot.k} best, but its group was rejected`;
      return item;
    }

    function drawLayer(box, record) {
      const size = boot.experts / boot.groups;
      const title = rl.add(rl.el("h3", "layer-title", `Layer ${record.layer}`),
        rl.add(rl.el("span", "dim"), document.createTextNode("move with "), rl.el("kbd", "", "["), rl.el("kbd", "", "]")));
      const table = rl.el("table", "layer-detail");
      const header = rl.el("tr");
      const names = boot.has_weights ? ["Expert", "Group", "Weight", "Affinity", ""] : ["Expert", "Group"];
      for (const name of names) {
        const head = header.appendChild(rl.el("th", "", name));
        if (name !== "Weight") continue;
        head.title = "what the expert's output is multiplied by; the weight share is its part of their sum";
        rl.add(head, rl.el("i", "unit", `sums to ${Number(record.total.toPrecision(3))}`));
      }
      rl.add(table, rl.add(rl.el("thead"), header));
      const body = rl.el("tbody");
      const name = (expert) => {
        const link = rl.link(`/routing?trace=${boot.trace_id}&L=${record.layer}&E=${expert}`, "expert-link", `E${expert}`);
        const dot = rl.el("i", "swatch");
        dot.style.background = rl.colors.expertLine(expert, boot);
        link.prepend(dot);
        return rl.add(rl.el("td"), link);
      };
      for (const c of record.chosen) {
        const row = rl.add(rl.el("tr"), name(c.expert), rl.el("td", "dim", String(Math.floor(c.expert / size))));
        body.appendChild(row);
        if (!boot.has_weights) continue;
        const weight = meter(c.share, rl.number(c.weight, 2), rl.colors.expertLine(c.expert, boot));
        weight.title = `weight share ${rl.percent(c.share)}`;
        rl.add(row, weight, meter(c.affinity, rl.number(c.affinity, 2), null));
        const badge = c.bias ? rl.el("span", "badge bias", "by bias", { title: "with a bias of zero it would not have been chosen" }) : null;
        row.appendChild(rl.add(rl.el("td"), badge));
      }
      for (const expert of record.shutOut) {
        const row = rl.add(rl.el("tr", "out"), name(expert), rl.el("td", "dim", String(Math.floor(expert / size))));
        const why = rl.el("td", "", null, { colspan: 3 });
        body.appendChild(rl.add(row, rl.add(why, rl.el("span", "badge shut", "shut out by the group limit"))));
      }
      const facts = rl.el("p", "layer-facts");
      if (!boot.has_weights) {
        rl.add(box, title, rl.add(table, body), rl.add(facts, rl.el("span", "dim",
          "This run was imported: why these were chosen is not known. A replay tells it.")));
        return;
      }
      const fact = (label, value) => rl.add(facts, rl.add(rl.el("span", "dim", label + " "), rl.el("b", "", value)));
      fact("margin", rl.number(record.margin, 3));
      fact("group margin", rl.number(record.groupMargin, 3));
      fact("router entropy", rl.number(record.entropy, 2) + " nats");
      rl.add(box, title, rl.add(table, body), facts);
    }

    function meter(share, text, color) {
      const cell = rl.el("td", "meter");
      const bar = rl.el("span", "bar");
      const fill = rl.el("i");
      fill.style.width = 100 * Math.min(1, share) + "%";
      if (color) fill.style.backgroundColor = color;
      return rl.add(cell, rl.add(bar, fill), rl.el("span", "value", text));
    }

    // --- heads ------------------------------------------------------------------------------

    function drawHeads(box, block, pos) {
      const readout = rl.el("span", "dim", "layer ↓  head →");
      box.appendChild(rl.add(rl.el("h3", "", "Attention heads"), readout));
      const grid = rl.el("div", "head-grid");
      for (const kind of HEADS) grid.appendChild(headMap(kind, block, pos, readout));
      box.appendChild(grid);
    }

    function headMap(kind, block, pos, readout) {
      const figure = rl.el("figure");
      const canvas = rl.el("canvas", "", null, { role: "img", "aria-label": `${kind.label} by layer and head` });
      const layers = block.layers.length;
      const H = boot.heads;
      const value = (s, h) => block[kind.id][(s * block.tokens + pos - block.start) * H + h];
      let top = 1e-6; // the scale ends at this token's largest value, which the caption names
      let gaps = 0;
      for (let s = 0; s < layers; s++) {
        for (let h = 0; h < H; h++) {
          if (Number.isFinite(value(s, h))) top = Math.max(top, value(s, h));
          else gaps++;
        }
      }
      const caption = rl.add(rl.el("figcaption", "", kind.label),
        rl.el("span", "dim", gaps === layers * H ? "not recorded" : `0 – ${rl.number(top, top < 10 ? 2 : 0)}${kind.unit}`));
      rl.add(figure, caption, canvas);
      requestAnimationFrame(() => {
        const width = canvas.clientWidth || 180;
        const rowHeight = Math.max(2, Math.min(11, Math.floor(180 / layers)));
        const step = width / H;
        const gap = rowHeight > 6 && step > 6 ? 1 : 0;
        const c = rl.context(canvas, width, layers * rowHeight);
        const scale = rl.colors.heat();
        for (let s = 0; s < layers; s++) {
          for (let h = 0; h < H; h++) {
            if (!Number.isFinite(value(s, h))) continue; // not recorded: a gap
            c.fillStyle = scale[Math.round(63 * Math.max(0, Math.min(1, value(s, h) / top)))];
            c.fillRect(h * step, s * rowHeight, step - gap, rowHeight - gap);
          }
        }
        canvas.addEventListener("pointermove", (event) => {
          const s = Math.min(layers - 1, Math.floor(event.offsetY / rowHeight));
          const h = Math.min(H - 1, Math.floor(event.offsetX / step));
          readout.textContent = `L${block.layers[s]} head ${h}: ${rl.numberOr(value(s, h), 3)}`;
        });
        canvas.addEventListener("pointerleave", () => (readout.textContent = "layer ↓  head →"));
      });
      return figure;
    }

    return { node, show };
  };
})();
