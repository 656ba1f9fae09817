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
    // Sequential scale for small heatmaps, t from 0 to 1.
    heat: (t, hue) =>
      dark()
        ? `oklch(${0.2 + 0.62 * t} ${0.02 + 0.11 * Math.sin(Math.PI * Math.min(1, 0.15 + t * 0.8))} ${hue})`
        : `oklch(${0.97 - 0.55 * t} ${0.01 + 0.12 * t} ${hue})`,
  };
})();
