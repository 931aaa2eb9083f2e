// Line charts: uPlot draws them, in here is only how ours look. No imports: the report carries
// this file inside itself; `marks` and `inWords` of units.js are handed in.

const HEIGHT = 240;
const DOTS = 60; // more points than this make a line of dots
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [12, 4], [4, 4]]; // told apart without colour
const SIZE = 12; // CSS pixels of an axis' text
const BINARY_STEPS = Array.from({ length: 50 }, (_, n) => 2 ** n);
const ROUND_STEPS = Array.from({ length: 24 }, (_, n) => [1, 2, 5].map((m) => m * 10 ** (n - 9))).flat();
const charts = new Map(); // element -> its chart

const pen = document.createElement("canvas").getContext("2d");
function widest(texts, font) {
  pen.font = font;
  return Math.max(0, ...(texts ?? []).map((text) => pen.measureText(text ?? "").width));
}

function ends(kind, low, high) {
  if (kind === "bytes") return [Math.min(0, low), high > 0 ? high * 1.05 : 1];
  if (kind === "count") return low === high ? [Math.max(0, low - 1), high + 1] : [low, high];
  const span = high - low || Math.abs(high) * 0.1 || 0.1;
  const pad = span * 0.08;
  if (kind !== "percent") return [low - pad, high + pad];
  // Above 100 % there is only room for the line itself: less than the step of a mark.
  return [Math.max(-0.02 * span, low - pad), Math.min(1 + 0.02 * span, high + pad)];
}

const steps = (kind) => (kind === "bytes" ? BINARY_STEPS : kind === "count" ? ROUND_STEPS.filter((s) => s >= 1) : ROUND_STEPS);

// spec: {title, x: {label, kind, values}, y: {label, kind}, series: [{name, values}]}
function options(box, spec, { marks }) {
  const style = getComputedStyle(box);
  const ink = (name) => style.getPropertyValue(name).trim();
  const font = `${SIZE}px ${style.fontFamily}`;
  const axis = (kind, space) => ({
    font, stroke: ink("--dim"), space, incrs: steps(kind),
    grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, gap: 8,
    values: (_u, splits, _i, _space, step) => marks(kind, splits, step),
  });
  const across = (u) => widest(u.axes[0]._values, font);
  const count = Math.max(...spec.series.map((one) => one.values.filter((v) => v !== null).length));
  return {
    width: Math.max(box.clientWidth, 120), height: HEIGHT, legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    padding: [10, (u) => Math.ceil(across(u) / 2) + 6, 4, 0],
    scales: {
      x: { time: false, range: (_, low, high) => ends(spec.x.kind, low, high) },
      y: { range: (_, low, high) => (low === null ? [0, 1] : ends(spec.y.kind, low, high)) },
    },
    axes: [
      { ...axis(spec.x.kind, spec.x.kind === "bytes" ? 66 : 48), size: SIZE + 16, label: spec.x.label, labelFont: font, labelSize: SIZE + 8, labelGap: 0 },
      { ...axis(spec.y.kind, 36), size: (_u, values) => Math.ceil(widest(values, font)) + 14 },
    ],
    series: [{}, ...spec.series.map((one, i) => ({
      label: one.name, stroke: ink(`--s${i % 6}`), width: 2, dash: DASHES[Math.floor(i / 6 + (i % 6)) % 6], spanGaps: true,
      points: { show: count < DOTS, size: 6, fill: ink(`--s${i % 6}`) },
    }))],
  };
}

const data = (spec) => [spec.x.values, ...spec.series.map((one) => one.values)];

function tell(chart, at) {
  const { spec, legend, units } = chart;
  const found = at === null || at === undefined ? null : at;
  spec.series.forEach((one, i) => {
    const value = one.values.at(found ?? -1) ?? null;
    const said = legend.children[i]?.querySelector("b");
    if (said) said.textContent = value === null ? "-" : units.inWords[spec.y.kind](value);
  });
  const where = legend.querySelector(".where");
  if (where) where.textContent = found === null ? "" : `${spec.x.label}: ${units.inWords[spec.x.kind](spec.x.values[found])}`;
}

function make(box, legend, spec, units) {
  const plot = new globalThis.uPlot(options(box, spec, units), data(spec), box);
  const chart = { plot, spec, legend, units };
  plot.hooks.setCursor = [(u) => tell(chart, u.cursor.idx)];
  charts.set(box, chart);
  box.plot = plot; // for who measures it
  tell(chart, null);
  return chart;
}

// Draws a chart into an element, or gives the one that is there its new values.
export function drawChart(box, legend, spec, units) {
  const old = charts.get(box);
  const same = old && old.plot.series.length === spec.series.length + 1 && old.spec.y.kind === spec.y.kind;
  if (same) {
    Object.assign(old, { spec, legend });
    old.plot.setData(data(spec));
    tell(old, null);
    return;
  }
  old?.plot.destroy();
  box.replaceChildren();
  make(box, legend, spec, units);
  watching.observe(box);
}

// Drops charts whose pages were turned.
export function sweepCharts() {
  for (const [box, { plot }] of charts) {
    if (box.isConnected) continue;
    watching.unobserve(box);
    plot.destroy();
    charts.delete(box);
  }
}

// Other colours: drawn anew.
export function recolourCharts() {
  for (const [box, { plot, legend, spec, units }] of [...charts]) {
    plot.destroy();
    box.replaceChildren();
    make(box, legend, spec, units);
  }
}

const watching = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = charts.get(target);
    const width = Math.max(target.clientWidth, 120);
    if (chart && target.isConnected && chart.plot.width !== width) chart.plot.setSize({ width, height: HEIGHT });
  }
});
