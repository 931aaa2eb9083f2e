// Figures of the page: a chart, what its lines are, and its numbers as a table.

import { drawChart, sweepCharts } from "./charts.js";
import { dim, h, table } from "./dom.js";
import * as units from "./units.js";

let waiting = []; // drawn once they stand on the page and have a width

// spec: as `drawChart` takes it, with a title.
export function figure(spec) {
  const { title, x, y, series } = spec;
  if (!series.some((one) => one.values.some((value) => value !== null))) return dim("Nothing measured yet.");
  const text = units.inWords[y.kind];
  const last = series.map((one) => `${one.name} ${text(one.values.at(-1) ?? null)}`);
  const box = h("div", { class: "plot", role: "img", "aria-label": `${title}. Last: ${last.join(", ")}`, "data-key": `plot ${title}` });
  const legend = h("ul", { class: "legend" },
    series.map((one, i) => h("li", {}, h("span", { class: `s${i % 6}` }), `${one.name} `, h("b"))), h("li", { class: "where" }));
  waiting.push({ box, legend, spec });
  const rows = x.values.map((at, i) => [at, ...series.map((one) => one.values[i])]);
  return h("figure", {}, box, legend,
    h("details", { "data-key": `table ${title}` }, h("summary", {}, "As a table"),
      table(`${title}, as a table`, [
        [x.label, (row) => units.inWords[x.kind](row[0]), "n"],
        ...series.map((one, i) => [one.name, (row) => text(row[i + 1]), "n"]),
      ], rows.reverse())));
}

// Draws what has come; a chart that stood here before goes on, with the new values.
export function drawFigures(before) {
  for (const { box, legend, spec } of waiting) {
    const old = before.get(box.dataset.key);
    if (old) {
      old.ariaLabel = box.ariaLabel;
      box.replaceWith(old);
    }
    drawChart(old ?? box, legend, spec, units);
  }
  waiting = [];
  sweepCharts();
}

export const shade = (value, all) => `d${all.length < 2 ? 4 : Math.round((4 * all.indexOf(value)) / (all.length - 1))}`;

// parts: [[fraction, class], ...]
export function bar(parts) {
  const whole = h("span", { class: "bar", "aria-hidden": "true" });
  for (const [fraction, look] of parts) {
    const piece = h("i", { class: look });
    piece.style.width = `${100 * fraction}%`; // the style attribute would be inline style
    whole.append(piece);
  }
  return whole;
}
