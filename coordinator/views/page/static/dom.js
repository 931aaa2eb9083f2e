// Small tools to build the page: elements, cards, tables that are paged and stack on a phone.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// Text always goes in as text: what devices say is never markup.
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
// The same in a cell, which has less room.
export const note = (text, key) => words(text, `cell ${key}`, CELL);
export const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), ...children);
export const dim = (...words) => h("p", { class: "dim" }, ...words);
export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value, more]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value), more ? h("dd", { class: "more" }, more) : null)));

// Long words of a device: the beginning, and the rest where it is asked for.
const LONG = 160, CELL = 90;
export function words(text, key, most = LONG) {
  if (!text || text.length <= most) return text || "";
  const cut = text.lastIndexOf(" ", most - 20);
  const at = cut > most / 2 ? cut : most - 20;
  return h("details", { class: "words", "data-key": `words ${key}` }, h("summary", {}, `${text.slice(0, at)} …`), h("p", {}, text.slice(at).trim()));
}

const narrow = matchMedia("(max-width: 639px)");
const pages = new Map(); // caption -> {page, wanted}: what a reader chose outlives a redraw

// columns: [title, row -> cell, kinds]; kinds: "n" number, "wide" only where there is room,
// "text" many words. find: row -> text that a reader may look for.
export function table(caption, columns, rows, { find = null, size = narrow.matches ? 10 : 25 } = {}) {
  const chosen = pages.get(caption) ?? { page: 0, wanted: "" };
  pages.set(caption, chosen);
  // What nobody has is no column.
  const kept = columns.filter(([, cell], i) => !i || rows.some((row) => !isEmpty(cell(row))));
  const lengthy = rows.some((row) => (columns[0][1](row)?.[0]?.textContent ?? "").length > 24);
  const body = h("div", { class: lengthy ? "rows lengthy" : "rows" });
  const said = h("p", { class: "pages", role: "status" });
  const draw = () => {
    const wanted = chosen.wanted.trim().toLowerCase();
    const found = wanted && find ? rows.filter((row) => find(row).toLowerCase().includes(wanted)) : rows;
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    chosen.page = Math.min(Math.max(chosen.page, 0), last);
    const from = chosen.page * size;
    const shown = found.slice(from, from + size);
    body.replaceChildren(shown.length ? grid(caption, kept, shown) : dim("No match."));
    said.replaceChildren(found.length > size ? `${from + 1} to ${from + shown.length} of ${found.length}` : "");
    for (const [button, there] of [[back, chosen.page > 0], [on, chosen.page < last]]) button.disabled = !there;
    turner.hidden = last === 0 && !chosen.wanted;
    back.hidden = on.hidden = last === 0;
  };
  const turn = (by) => () => { chosen.page += by; draw(); };
  const back = h("button", { type: "button", "data-key": `back ${caption}`, "aria-label": `Previous of ${caption}` }, "Previous");
  const on = h("button", { type: "button", "data-key": `on ${caption}`, "aria-label": `Next of ${caption}` }, "Next");
  back.addEventListener("click", turn(-1));
  on.addEventListener("click", turn(1));
  const turner = h("div", { class: "turner" }, said, back, on);
  const filter = find && rows.length > size / 2 ? h("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${caption}`, "data-key": `find ${caption}`, value: chosen.wanted }) : null;
  filter?.addEventListener("input", () => { chosen.wanted = filter.value; chosen.page = 0; draw(); });
  draw();
  return h("div", { class: "paged" }, filter, body, turner);
}

const isEmpty = (cell) => cell === "" || cell === null || cell === undefined || (Array.isArray(cell) && !cell.length);

// Roles are said out loud: on a phone the rows are laid out as cards, and lose them else.
function grid(caption, columns, rows) {
  const head = columns.map(([title, , kinds]) => h("th", { scope: "col", role: "columnheader", class: kinds }, title));
  const row = (of) => h("tr", { role: "row" }, columns.map(([title, cell, kinds], i) => {
    const found = cell(of);
    return h("td", { role: "cell", class: `${kinds ?? ""}${i ? "" : " first"}${isEmpty(found) ? " none" : ""}`.trim() || null, "data-label": title }, found);
  }));
  return h("table", { class: "stack", role: "table" }, h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, rows.map(row)));
}

export const moment = (iso) => h("time", { datetime: iso }, new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }));
// Seconds left until then, or gone since, counted by `tick`.
export const countdown = (iso) => h("time", { datetime: iso, "data-until": iso }, left(iso));
export const ago = (iso) => h("time", { datetime: iso, "data-since": iso, title: new Date(iso).toLocaleString("en-GB") }, gone(iso));
const left = (iso) => `in ${Math.max(0, (Date.parse(iso) - Date.now()) / 1000).toFixed(0)} s`;
function gone(iso) {
  const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  const [value, unit] = s < 120 ? [s, "s"] : s < 7200 ? [s / 60, "min"] : s < 172800 ? [s / 3600, "h"] : [s / 86400, "d"];
  return `${value.toFixed(0)} ${unit} ago`;
}
export function tick() {
  for (const e of document.querySelectorAll("time[data-until]")) e.textContent = left(e.dataset.until);
  for (const e of document.querySelectorAll("time[data-since]")) e.textContent = gone(e.dataset.since);
}
