// Line charts as SVG, each with its numbers as a table for those who read rather than look.

import { h, s, table } from "./dom.js";

const WIDTH = 560, HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 36;

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}

// series: [{name, points: [[x, y], ...]}]; whole: x counts things; xText and yText turn numbers into words.
export function lineChart(title, series, { xLabel, yLabel, whole = false, xText = String, yText = String }) {
  const all = series.flatMap((one) => one.points);
  if (!all.length) return h("p", { class: "dim" }, "Nothing measured yet.");
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
  const x0 = Math.min(0, ...xs), x1 = Math.max(...xs, x0 + 1e-9);
  const y0 = Math.min(...ys), y1 = Math.max(...ys, y0 + 1e-9);
  const pad = (y1 - y0) * 0.05 || 0.01;
  const X = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const Y = (y) => HEIGHT - BOTTOM - ((y - y0 + pad) / (y1 - y0 + 2 * pad)) * (HEIGHT - TOP - BOTTOM);
  const grid = ticks(y0 - pad, y1 + pad, 5).filter((y) => y >= y0 - pad).map((y) => [
    s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: Y(y), y2: Y(y) }),
    s("text", { x: LEFT - 6, y: Y(y) + 4, "text-anchor": "end" }, yText(y)),
  ]);
  const below = ticks(x0, x1, 6).filter((x) => !whole || Number.isInteger(x)).map((x) =>
    s("text", { x: X(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, xText(x)));
  const lines = series.map((one, i) => [
    s("path", { class: `s${i % 6}`, d: one.points.map(([x, y], k) => `${k ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("") }),
    one.points.length < 60 ? one.points.map(([x, y]) => s("circle", { class: `s${i % 6}`, cx: X(x), cy: Y(y), r: 2.5 })) : [],
  ]);
  const last = series.filter((one) => one.points.length).map((one) => `${one.name} ${yText(one.points.at(-1)[1])}`);
  return h("figure", {},
    s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. Last: ${last.join(", ")}` },
      grid, below, lines,
      s("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, `${xLabel} →`),
      s("text", { x: 4, y: HEIGHT - 4 }, `↑ ${yLabel}`)),
    h("ul", { class: "legend" }, series.map((one, i) => h("li", {}, h("span", { class: `s${i % 6}` }), one.name))),
    h("details", { "data-key": `table ${title}` }, h("summary", {}, "As a table"),
      table(title, [["series", (r) => r[0]], [xLabel, (r) => xText(r[1]), "n"], [yLabel, (r) => yText(r[2]), "n"]],
        series.flatMap((one) => one.points.map(([x, y]) => [one.name, x, y])))));
}
