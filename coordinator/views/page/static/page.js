// Routes, live updates, and putting a view in place without losing focus or open details.

import { recolourCharts } from "./charts.js";
import { device, devices } from "./devices.js";
import { card, h, tick } from "./dom.js";
import { drawFigures } from "./figures.js";
import { exports_, warmUp } from "./models.js";
import { overview } from "./overview.js";
import { round, rounds } from "./rounds.js";

const view = document.getElementById("view");
const state = document.getElementById("state");
const LEAST_MS = 250; // between two redraws: events of a busy round come far faster

// [pattern of the hash, address of its facts, how they look]
const ROUTES = [
  [/^#?\/?$/, () => "api/run", overview],
  [/^#\/devices$/, () => "api/run", devices],
  [/^#\/devices\/([^/]+)$/, (name) => `api/devices/${name}`, device],
  [/^#\/rounds$/, () => "api/run", rounds],
  [/^#\/rounds\/(\d+)$/, (no) => `api/rounds/${no}`, round],
  [/^#\/warm-up$/, () => "api/warm-up", warmUp],
  [/^#\/exports$/, () => "api/exports", exports_],
];

setInterval(tick, 1000);
document.addEventListener("themechange", recolourCharts);

let shown = null; // the facts on the page, as text: what has not changed is not redrawn
let wanted = false, busy = false, latest = 0;
let turned = false; // a page was turned: its reader starts at its top

function place(nodes) {
  const focus = document.activeElement?.dataset?.key;
  const open = new Set([...view.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const typed = document.activeElement?.selectionStart; // in a filter
  const plots = new Map([...view.querySelectorAll(".plot")].map((d) => [d.dataset.key, d]));
  view.replaceChildren(...nodes.filter(Boolean));
  for (const d of view.querySelectorAll("details")) d.open = open.has(d.dataset.key);
  drawFigures(plots);
  view.dataset.shown = location.hash;
  if (turned) {
    turned = false;
    view.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (focus) {
    const again = view.querySelector(`[data-key="${CSS.escape(focus)}"]`);
    again?.focus({ preventScroll: true });
    if (typeof typed === "number") again?.setSelectionRange?.(typed, typed);
  }
}

function mark() {
  const first = location.hash.split("/")[1] ?? "";
  for (const link of document.querySelectorAll("nav a")) {
    const here = (link.getAttribute("href").split("/")[1] ?? "") === first;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function draw() {
  const hash = location.hash;
  const found = ROUTES.map(([pattern, address, look]) => [hash.match(pattern), address, look]).find(([m]) => m);
  mark();
  if (!found) {
    shown = null;
    place([h("h1", {}, "No such page"), card("Did you mean one of these", h("p", {}, h("a", { href: "#/" }, "Overview"), ", ", h("a", { href: "#/devices" }, "Devices"), ", ", h("a", { href: "#/rounds" }, "Rounds")))]);
    return;
  }
  const [match, address, look] = found;
  const answer = await fetch(address(...match.slice(1)));
  if (answer.status === 401) { location.reload(); return; }
  const text = await answer.text();
  if (hash !== location.hash || text === shown) return;
  shown = text;
  const facts = JSON.parse(text);
  if (facts.missing) {
    say("nothing yet");
    place([h("h1", {}, "Nothing to show here yet"), card("Reason and remedy", h("p", {}, facts.missing), h("p", {}, facts.help), h("p", {}, h("a", { href: "#/" }, "Overview")))]);
    return;
  }
  if (facts.run) document.getElementById("run").textContent = `${facts.run.federation} · ${facts.run.task} · ${facts.run.algorithm}`;
  if (facts.state) say(facts.runs === false && facts.state !== "done" ? `${facts.state}, coordinator not running` : facts.state, facts.runs === false && facts.state !== "done");
  place(look(facts));
}

function say(text, lost = false) {
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("lost", lost);
}

// At most one request at a time and one per LEAST_MS; the last event is never lost.
async function refresh() {
  wanted = true;
  if (busy) return;
  busy = true;
  while (wanted) {
    const wait = latest + LEAST_MS - performance.now();
    if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    wanted = false;
    latest = performance.now();
    try {
      await draw();
    } catch {
      say("the coordinator does not answer", true);
    }
  }
  busy = false;
}

addEventListener("hashchange", () => {
  shown = null;
  latest = 0;
  turned = true;
  refresh();
});

const events = new EventSource("events");
events.onmessage = refresh;
events.onopen = () => { shown = null; refresh(); };
events.onerror = () => say("the coordinator does not answer, trying again", true);
