// Colours of tokens and experts. OKLCH, so that equal steps look equal in both themes.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const BINS = 32;
  const dark = () => rl.theme() === "dark";

  // Hue of each metric's ramp; nothing at the calm end, colour at the end that matters.
  const HUES = { entropy: 62, logprob: 18, margin: 295 };
  const PHASES = [250, 285, 160]; // prompt, think, answer

  const ramp = (hue) => (t) =>
    dark()
      ? `oklch(${0.42 + 0.2 * t} ${0.09 + 0.06 * t} ${hue} / ${Math.min(1, 1.25 * t)})`
      : `oklch(${0.93 - 0.17 * t} ${0.05 + 0.1 * t} ${hue} / ${Math.min(1, 1.5 * t)})`;

  const HEAT = {
    dark: ["#15181d", "#172a3f", "#184567", "#1d6a8f", "#3196a8", "#6cc3b0", "#c5ecc0"],
    light: ["#f4f6f8", "#dcebf0", "#b3d9de", "#7abec9", "#3f98b0", "#1f6b90", "#123f66"],
  };
  const mix = (a, b, t) => {
    const channel = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
    const parts = [0, 1, 2].map((i) => Math.round(channel(a, i) * (1 - t) + channel(b, i) * t));
    return `rgb(${parts.join(", ")})`;
  };

  // Experts of a group share a range of hues; neighbours in it differ in lightness.
  const expertHue = (expert, shape) => {
    const size = shape.experts / shape.groups;
    const group = Math.floor(expert / size);
    const inside = (expert % size) / size;
    return (25 + (360 * (group + 0.78 * inside)) / shape.groups) % 360;
  };

  rl.colors = {
    BINS,
    // Background of a token for a metric, as a table by bin.
    ramp(metric) {
      const make = ramp(HUES[metric]);
      return Array.from({ length: BINS }, (_, bin) =>
        bin === 0 ? "transparent" : make(bin / (BINS - 1)),
      );
    },
    phases: () =>
      PHASES.map((hue) => (dark() ? `oklch(0.40 0.075 ${hue})` : `oklch(0.90 0.06 ${hue})`)),
    phaseLine: (phase) => (dark() ? `oklch(0.68 0.12 ${PHASES[phase]})` : `oklch(0.60 0.13 ${PHASES[phase]})`),
    line: (metric) =>
      dark() ? `oklch(0.72 0.14 ${HUES[metric]})` : `oklch(0.62 0.15 ${HUES[metric]})`,
    expertFill(expert, shape) {
      const lift = expert % 2 ? 0.05 : 0;
      const hue = expertHue(expert, shape);
      return dark() ? `oklch(${0.4 + lift} 0.085 ${hue})` : `oklch(${0.86 + lift} 0.075 ${hue})`;
    },
    expertLine(expert, shape) {
      const lift = expert % 2 ? 0.05 : 0;
      const hue = expertHue(expert, shape);
      return dark() ? `oklch(${0.7 + lift} 0.13 ${hue})` : `oklch(${0.58 + lift} 0.14 ${hue})`;
    },
    // Scale of small heatmaps as 64 colours, the same as the routing heatmap's.
    heat: () => {
      const stops = dark() ? HEAT.dark : HEAT.light;
      return Array.from({ length: 64 }, (_, i) => {
        const at = (i / 63) * (stops.length - 1);
        const low = Math.min(stops.length - 2, Math.floor(at));
        return mix(stops[low], stops[low + 1], at - low);
      });
    },
  };
})();
