// Small tools to build the page: elements, tables, numbers in words.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Text always goes in as text: what devices say is never markup.
export const h = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), ...children);

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// columns: [title, row -> cell, "n" for numbers]
export function table(caption, columns, rows) {
  const head = columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export function bytes(count) {
  if (count === null || count === undefined) return "-";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(count) < 1024 || unit === "GiB") return `${unit === "B" ? count : count.toFixed(1)} ${unit}`;
    count /= 1024;
  }
  return "";
}

export const number = (value) => (value === null || value === undefined ? "-" : value.toLocaleString("en"));
export const percent = (share) => (share === null || share === undefined ? "-" : `${(100 * share).toFixed(2)} %`);
export const seconds = (value) => (value === null || value === undefined ? "-" : `${value.toFixed(1)} s`);
// Seconds left until then, counted down by `tick`.
export const countdown = (iso) => h("time", { datetime: iso, "data-until": iso }, left(iso));
const left = (iso) => `in ${Math.max(0, (Date.parse(iso) - Date.now()) / 1000).toFixed(0)} s`;
export function tick() {
  for (const e of document.querySelectorAll("time[data-until]")) e.textContent = left(e.dataset.until);
}
export const density = (value) => (value === null || value === undefined ? "-" : String(value));
export const moment = (iso) => h("time", { datetime: iso }, new Date(iso).toLocaleString());
export const score = (metrics) =>
  !metrics ? "-" : "accuracy" in metrics ? percent(metrics.accuracy) : `loss ${metrics.loss.toFixed(4)}`;
