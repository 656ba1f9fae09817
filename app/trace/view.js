// The page of one trace: state, data, keyboard. Drawing is in trace_text, trace_ribbon and
// trace_panel; each gets the view below and reads from it, only this file changes it.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const METRICS = [
    { id: "entropy", label: "Entropy", unit: "nats", says: "how open the choice of a token was; the prompt was not chosen and stays plain" },
    { id: "logprob", label: "Surprise", unit: "nats", says: "−logprob of a token; the prompt was not chosen and stays plain" },
    { id: "margin", label: "Margin", unit: "", says: "mean router margin; coloured where contested" },
    { id: "expert", label: "Expert", unit: "", says: "heaviest expert of one layer" },
    { id: "phase", label: "Phase", unit: "", says: "prompt, think, answer" },
  ];
  let view = null;

  const quantile = (values, q) => {
    const finite = Float32Array.from(values).filter(Number.isFinite).sort();
    return finite.length ? finite[Math.min(finite.length - 1, Math.floor(q * finite.length))] : 0;
  };

  // Bins of a number per token: 0 is calm, BINS - 1 is the end of the domain.
  const binned = (values, position) => {
    const bins = new Uint16Array(values.length);
    const last = rl.colors.BINS - 1;
    for (let i = 0; i < values.length; i++) {
      const t = Number.isFinite(values[i]) ? position(values[i]) : 0;
      bins[i] = Math.round(Math.max(0, Math.min(1, t)) * last);
    }
    return bins;
  };

  // Why a metric cannot be shown of a trace; null where it can.
  const lacks = (boot, id) => {
    if (id === "phase" || boot.recorded[id]) return null;
    if (id === "entropy" || id === "logprob") {
      return boot.mode === "imported"
        ? `not recorded: the server reported no ${id === "logprob" ? "log-probabilities" : "entropy"}`
        : "not recorded: this run left log-probabilities out (record logprobs)";
    }
    return boot.has_routing
      ? "not recorded: this run was imported; which experts were chosen is known, not with what weight"
      : "not recorded: this run left routing out (record routing)";
  };

  // How each metric becomes bins, a palette and a legend; null until its data are there.
  const PAINT = {
    entropy: (v) => drawn(v, v.data.entropy),
    logprob: (v) => drawn(v, v.data.surprise),
    margin: (v) =>
      v.data.margin &&
      ramp(v, v.data.margin, quantile(v.data.margin, 0.5), (x, top) => 1 - x / top, true),
    expert: (v) => {
      const layer = v.layers.get(v.layer);
      if (!layer) return null;
      const palette = Array.from({ length: v.boot.experts }, (_, e) =>
        v.only === null || v.only === e ? rl.colors.expertFill(e, v.boot) : "transparent",
      );
      const unknown = layer.expert.reduce((n, e) => n + (e >= v.boot.experts), 0);
      return { bins: layer.expert, values: layer.share, palette, unknown, kind: "expert" };
    },
    phase: (v) => ({ bins: v.data.phase, palette: rl.colors.phases(), unknown: 0, kind: "phase" }),
  };
  // What the model chose: the prompt it did not, so it stays plain and has no say in the scale.
  const drawn = (v, values) => {
    const own = values.map((x, i) => (v.data.phase[i] ? x : NaN));
    const unknown = values.reduce((n, x, i) => n + (v.data.phase[i] && Number.isNaN(x) ? 1 : 0), 0);
    return ramp(v, own, Math.max(0.05, quantile(own, 0.99)), (x, top) => x / top, false, unknown);
  };
  const missing = (values) => values.reduce((n, x) => n + (Number.isNaN(x) ? 1 : 0), 0);
  const ramp = (v, values, top, position, reversed, unknown) => ({
    unknown: unknown ?? missing(values),
    bins: binned(values, (x) => position(x, top || 1)),
    palette: rl.colors.ramp(v.metric),
    values,
    top: top || 1,
    reversed: Boolean(reversed),
    kind: "ramp",
  });

  // Fetch what the metric still lacks.
  async function need(v) {
    const base = `/data/trace/${v.boot.trace_id}`;
    if (v.metric === "margin" && !v.data.margin) {
      v.data.margin = rl.decode((await rl.fetch(base + "/margin")).margin, "f4");
    }
    if (v.metric === "expert" && !v.layers.has(v.layer)) {
      const layer = v.layer;
      const body = await rl.fetch(`${base}/layer/${layer}`);
      v.layers.set(layer, {
        expert: rl.decode(body.expert, "u2"),
        share: rl.decode(body.share, "f4"),
      });
    }
  }

  async function paint() {
    const v = view;
    try {
      await need(v);
    } catch (error) {
      return v.fail(error);
    }
    if (view !== v) return;
    const paint = PAINT[v.metric](v);
    if (!paint) return;
    v.paint = paint;
    v.text.recolor();
    v.ribbon.draw();
    v.ribbon.drawMap();
    drawLegend(v);
  }

  function drawLegend(v) {
    const box = v.legend;
    box.replaceChildren();
    const metric = METRICS.find((m) => m.id === v.metric);
    box.title = metric.says;
    const gaps = v.paint.unknown;
    const note = gaps ? rl.el("span", "gaps", `gaps: not recorded for ${gaps.toLocaleString("en")} ${gaps === 1 ? "token" : "tokens"}`) : null;
    if (v.paint.kind === "phase") {
      ["prompt", "think", "answer"].forEach((name, i) => {
        const chip = rl.el("span", "key", name);
        const swatch = rl.el("i", "swatch");
        swatch.style.background = v.paint.palette[i];
        chip.prepend(swatch);
        box.appendChild(chip);
      });
      return;
    }
    if (v.paint.kind === "expert") {
      drawExpertLegend(v, box);
      return rl.add(box, note);
    }
    const bar = rl.el("span", "legend-bar");
    const stops = [4, 12, 20, 28, 31].map((bin) => v.paint.palette[bin]);
    bar.style.background = `linear-gradient(90deg, transparent, ${stops.join(", ")})`;
    const digits = v.paint.top < 1 ? 2 : 1;
    const ends = ["0", rl.number(v.paint.top, digits)];
    if (v.paint.reversed) ends.reverse();
    const low = v.paint.reversed ? "≥ " + ends[0] : ends[0];
    const high = v.paint.reversed ? ends[1] : "≥ " + ends[1];
    rl.add(box, rl.el("span", "", low), bar, rl.el("span", "", `${high} ${metric.unit}`), note);
  }

  function drawExpertLegend(v, box) {
    const counts = new Map();
    for (const expert of v.paint.bins) if (expert < v.boot.experts) counts.set(expert, (counts.get(expert) || 0) + 1);
    const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
    for (const [expert, count] of top) {
      const key = rl.el("button", "key", `E${expert}`, {
        type: "button",
        "aria-pressed": String(v.only === expert),
        title: `heaviest for ${count} tokens; click to show only these`,
      });
      const swatch = rl.el("i", "swatch");
      swatch.style.background = rl.colors.expertLine(expert, v.boot);
      key.prepend(swatch);
      key.addEventListener("click", () => {
        v.only = v.only === expert ? null : expert;
        paint();
      });
      box.appendChild(key);
    }
    if (counts.size > top.length) box.appendChild(rl.el("span", "dim", `+${counts.size - top.length}`));
  }

  // --- changing the state -------------------------------------------------------------------

  function setPos(pos, scroll) {
    const v = view;
    v.pos = Math.max(0, Math.min(v.count - 1, pos));
    rl.setParams({ tok: v.pos });
    v.text.focus(scroll);
    v.ribbon.mark();
    v.panel.show();
  }

  function setLayer(layer) {
    const v = view;
    if (!v.boot.sparse_layers.includes(layer)) return;
    v.layer = layer;
    rl.setParams({ L: layer });
    v.layerSelect.value = String(layer);
    v.panel.show();
    if (v.metric === "expert") paint();
    else v.ribbon.mark();
  }

  function setMetric(metric) {
    const v = view;
    v.metric = metric;
    v.only = null;
    rl.setParams({ metric });
    for (const button of v.root.querySelectorAll("[data-metric]")) {
      button.setAttribute("aria-pressed", String(button.dataset.metric === metric));
    }
    v.layerBox.hidden = metric !== "expert";
    paint();
  }

  function stepLayer(by) {
    const layers = view.boot.sparse_layers;
    if (!layers.length) return;
    const at = layers.indexOf(view.layer) + by;
    setLayer(layers[Math.max(0, Math.min(layers.length - 1, at))]);
  }

  // --- keyboard -----------------------------------------------------------------------------

  const KEYS = {
    ArrowRight: () => setPos(view.pos === null ? 0 : view.pos + 1, true),
    ArrowLeft: () => setPos(view.pos === null ? 0 : view.pos - 1, true),
    j: () => setPos(view.text.lineStep(1), true),
    k: () => setPos(view.text.lineStep(-1), true),
    ArrowDown: () => setPos(view.text.lineStep(1), true),
    ArrowUp: () => setPos(view.text.lineStep(-1), true),
    "]": () => stepLayer(1),
    "[": () => stepLayer(-1),
    n: () => view.boot.next !== null && rl.go(`/trace/${view.boot.next}`),
    p: () => view.boot.previous !== null && rl.go(`/trace/${view.boot.previous}`),
    Escape: () => view.unfocus(),
  };
  METRICS.forEach((metric, i) => {
    KEYS[String(i + 1)] = () => {
      const button = view.root.querySelector(`[data-metric="${metric.id}"]`);
      if (button && !button.disabled) setMetric(metric.id);
    };
  });

  document.addEventListener("keydown", (event) => {
    if (!view || !view.ready || !document.contains(view.root) || rl.typing(event)) return;
    if (document.querySelector("dialog[open]")) return;
    const action = KEYS[event.key];
    if (!action) return;
    if (event.target.closest("a, button") && event.key.startsWith("Arrow")) event.target.blur();
    event.preventDefault();
    action();
  });

  window.addEventListener("ringlens:theme", () => {
    if (!view || !view.ready || !document.contains(view.root)) return;
    paint();
    view.panel.show();
  });

  // --- mounting -----------------------------------------------------------------------------

  function toolbar(v) {
    const bar = rl.el("div", "toolbar");
    const group = rl.el("div", "segments", null, { role: "group", "aria-label": "Colour by" });
    for (const metric of METRICS) {
      const button = rl.el("button", "", metric.label, {
        type: "button",
        "data-metric": metric.id,
        "aria-pressed": "false",
        title: metric.says,
      });
      const why = lacks(v.boot, metric.id);
      button.disabled = why !== null;
      if (why) button.title = why;
      button.addEventListener("click", () => setMetric(metric.id));
      group.appendChild(button);
    }
    v.layerBox = rl.el("label", "layer-box", "layer");
    v.layerSelect = rl.el("select", "", null, { "aria-label": "Layer" });
    for (const layer of v.boot.sparse_layers) {
      v.layerSelect.appendChild(rl.el("option", "", `L${layer}`, { value: layer }));
    }
    v.layerSelect.addEventListener("change", () => setLayer(Number(v.layerSelect.value)));
    v.layerBox.appendChild(v.layerSelect);
    v.legend = rl.el("div", "legend");
    return rl.add(bar, rl.el("span", "label", "Colour"), group, v.layerBox, v.legend);
  }

  function decode(body) {
    const data = {
      text: body.text,
      ends: rl.decode(body.ends, "u4"),
      ids: rl.decode(body.ids, "u4"),
      phase: rl.decode(body.phase, "u1"),
      logprob: rl.decode(body.logprob, "f4"),
      entropy: rl.decode(body.entropy, "f4"),
      margin: null,
    };
    data.surprise = data.logprob.map((x) => -x);
    return data;
  }

  async function mount(boot) {
    const root = document.getElementById("trace-app");
    if (!root || !boot) return;
    const v = (view = { boot, root, layers: new Map(), only: null, pos: null, ready: false });
    delete root.dataset.ready;
    root.replaceChildren(rl.el("div", "loading", "Reading the trace…"));
    v.fail = (error) => {
      root.replaceChildren(rl.add(rl.el("div", "state"), rl.el("h2", "", "This trace cannot be read"),
        rl.el("p", "", error.message)));
    };
    try {
      v.data = decode(await rl.fetch(`/data/trace/${boot.trace_id}/tokens`));
    } catch (error) {
      return v.fail(error);
    }
    if (view !== v || !document.contains(root)) return;
    v.count = v.data.ends.length;
    v.token = (i) => v.data.text.slice(i ? v.data.ends[i - 1] : 0, v.data.ends[i]);
    v.setPos = setPos;
    v.setLayer = setLayer;
    build(v);
    restore(v);
    v.ready = true;
    root.dataset.ready = "true";
  }

  function build(v) {
    const main = rl.el("section", "trace-main", null, { "aria-label": "Chain of thought" });
    v.text = rl.traceText(v);
    v.ribbon = rl.traceRibbon(v);
    v.panel = rl.tracePanel(v);
    rl.add(main, toolbar(v), v.ribbon.node, v.text.node);
    v.root.replaceChildren(main, v.panel.node);
    v.unfocus = () => {
      v.pos = null;
      rl.setParams({ tok: null });
      v.text.focus(false);
      v.ribbon.mark();
      v.panel.show();
    };
    v.text.build();
  }

  // Take what the URL asks for; what does not exist falls back to what always does.
  function restore(v) {
    const layer = rl.intParam("L");
    const layers = v.boot.sparse_layers;
    v.layer = layers.includes(layer) ? layer : layers.length ? layers[layers.length >> 1] : null;
    if (v.layer !== null) v.layerSelect.value = String(v.layer);
    const asked = v.root.querySelector(`[data-metric="${CSS.escape(rl.param("metric") || "")}"]`);
    const first = METRICS.find((metric) => !lacks(v.boot, metric.id)).id;
    v.metric = asked && !asked.disabled ? asked.dataset.metric : first;
    for (const button of v.root.querySelectorAll("[data-metric]")) {
      button.setAttribute("aria-pressed", String(button.dataset.metric === v.metric));
    }
    v.layerBox.hidden = v.metric !== "expert";
    paint();
    const pos = rl.intParam("tok");
    if (pos !== null && pos < v.count) setPos(pos, true);
    else v.panel.show();
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.trace = {
    mount(boot) {
      mount(boot);
      return window.dash_clientside.no_update;
    },
  };
})();
