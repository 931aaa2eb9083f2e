// What each page shows, from the facts that the coordinator gives.

import { lineChart } from "./charts.js";
import { bytes, card, countdown, density, facts, h, moment, number, percent, score, seconds, table } from "./dom.js";

const accuracy = (metrics) => metrics?.accuracy;
const toDevice = (name) => h("a", { href: `#/devices/${name}`, "data-key": `device ${name}` }, name);
const toRound = (no) => h("a", { href: `#/rounds/${no}`, "data-key": `round ${no}` }, no === 0 ? "warm-up" : String(no));
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "-");

const state = (d) => (d.phase === "revoked" ? "revoked" : d.online ? d.phase || "online" : "offline");

function phase(text) {
  const looks = { accepted: "good", done: "good", rejected: "bad", failed: "bad", aborted: "bad", expired: "warn" };
  return h("span", { class: looks[text] ?? null }, text || "-");
}

// -- overview ------------------------------------------------------------------------

export function overview(run) {
  const scored = run.rounds.filter((r) => r.scores && Object.values(r.scores).some((m) => m.accuracy !== undefined));
  const names = run.run.densities;
  const against = (x) => names.map((d) => ({
    name: `density ${d}`,
    points: scored.filter((r) => r.scores[d]).map((r) => [x(r), accuracy(r.scores[d])]),
  }));
  let moved = 0;
  const total = new Map(run.rounds.map((r) => [r.no, (moved += r.up_bytes + r.down_bytes)]));
  const last = scored.at(-1);
  return [
    h("h1", {}, "Overview"),
    facts([
      ["rounds done", `${run.rounds_done} of ${run.run.rounds}`],
      ["devices online", `${run.devices.filter((d) => d.online).length} of ${run.devices.length}`],
      ["this round", run.open ? `${run.open.accepted} of ${run.open.goal} updates` : "-"],
      ["deadline", run.open?.deadline ? countdown(run.open.deadline) : "-"],
      ["model bytes moved", bytes(moved)],
      ...(last ? names.map((d) => [`accuracy at ${d}`, score(last.scores[d])]) : []),
    ]),
    h("div", { class: "grid" },
      card("Accuracy by round", lineChart("Accuracy by round", against((r) => r.no), { xLabel: "round", yLabel: "accuracy", whole: true, yText: percent })),
      card("Accuracy by bytes", lineChart("Accuracy by bytes", against((r) => total.get(r.no)), { xLabel: "updates and models moved", yLabel: "accuracy", xText: bytes, yText: percent }))),
    card("Fleet", fleet(run)),
  ];
}

const shade = (value, all) => `d${all.length < 2 ? 4 : Math.round((4 * all.indexOf(value)) / (all.length - 1))}`;

function look(device, all) {
  const parts = [all.includes(device.density) ? shade(device.density, all) : ""];
  if (!device.online) parts.push("off");
  if (device.refused) parts.push("refused");
  else if (device.task === "accepted") parts.push("done");
  else if (["training", "fetching", "uploading"].includes(device.phase)) parts.push("busy");
  return parts.join(" ").trim();
}

function fleet(run) {
  if (!run.devices.length) return h("p", { class: "dim" }, "No device has said hello yet.");
  const all = [...run.run.densities].sort((a, b) => a - b);
  const words = (d) =>
    `${d.name}: density ${density(d.density)}, ${state(d)}${d.refused ? `, ${d.refused} refused` : ""}`;
  const ring = (kind, text) => h("li", {}, h("span", { class: `ring ${kind}` }), text);
  return [
    h("ul", { class: "fleet" }, run.devices.map((d) => h("li", {},
      h("a", { href: `#/devices/${d.name}`, class: look(d, all), title: words(d), "aria-label": words(d), "data-key": `map ${d.name}` })))),
    h("ul", { class: "legend" },
      all.map((d) => h("li", {}, h("span", { class: shade(d, all) }), `density ${d}`)),
      ring("warn", "working"), ring("good", "update accepted"), ring("bad", "updates refused"), h("li", {}, "faded: offline")),
  ];
}

// -- devices -------------------------------------------------------------------------

export function devices(run) {
  return [
    h("h1", {}, "Devices"),
    run.devices.length
      ? table(`${run.devices.length} devices`, [
          ["device", (d) => toDevice(d.name)],
          ["board", (d) => d.board],
          ["density", (d) => density(d.density), "n"],
          ["now", (d) => (state(d))],
          ["this round", (d) => phase(d.task)],
          ["engine", (d) => d.engine || "-"],
          ["sent", (d) => bytes(d.sent), "n"],
          ["received", (d) => bytes(d.received), "n"],
          ["memory", (d) => (d.rss_mib ? `${d.rss_mib} MiB` : "-"), "n"],
          ["refused", (d) => (d.refused ? h("span", { class: "bad" }, String(d.refused)) : "0"), "n"],
          ["last seen", (d) => moment(d.last_seen)],
          ["why this density", (d) => d.why],
          ["waits or does less, because", (d) => [d.waits, d.pace].filter(Boolean).join("; ")],
        ], run.devices)
      : h("p", {}, "No device has said hello yet."),
  ];
}

export function device(found) {
  const d = found.device;
  return [
    h("h1", {}, d.name),
    facts([["board", d.board || "-"], ["density", density(d.density)], ["examples", number(d.examples)],
      ["sent", bytes(d.sent)], ["received", bytes(d.received)], ["engine", d.engine || "-"], ["version", d.version]]),
    card("Why this density", h("p", {}, d.why || "No density has been chosen yet."),
      d.pace ? h("p", {}, `Does less in each round: ${d.pace}`) : null, d.waits ? h("p", {}, `Waits: ${d.waits}`) : null),
    card("Its rounds", found.tasks.length
      ? table("Tasks, newest first", [
          ["round", (t) => toRound(t.round)], ["density", (t) => density(t.density), "n"], ["task", (t) => phase(t.phase)],
          ["examples", (t) => number(t.examples), "n"], ["steps", (t) => number(t.steps), "n"], ["time", (t) => seconds(t.seconds), "n"],
          ["peak memory", (t) => (t.peak_mib ? `${Math.round(t.peak_mib)} MiB` : "-"), "n"], ["update", (t) => bytes(t.up_bytes), "n"],
          ["model", (t) => bytes(t.down_bytes), "n"], ["loss", (t) => (t.loss === null ? "-" : t.loss.toFixed(4)), "n"], ["note", (t) => t.why],
        ], found.tasks)
      : h("p", { class: "dim" }, "It has had no task yet.")),
    card("Refused updates", found.refusals.length
      ? table("Refusals, newest first", [["verdict", (r) => r.verdict], ["times", (r) => number(r.count), "n"], ["last in round", (r) => toRound(r.round)], ["last at", (r) => moment(r.at)], ["why", (r) => r.why]], found.refusals)
      : h("p", { class: "dim" }, "None.")),
    card("Profile", h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Profile" },
      h("table", {}, h("caption", {}, "As the device sent it"), h("tbody", {}, found.profile.map(([key, value]) =>
        h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, h("code", {}, value)))))))),
  ];
}

// -- rounds --------------------------------------------------------------------------

export function rounds(run) {
  return [
    h("h1", {}, "Rounds"),
    run.rounds.length
      ? table("Rounds, newest first", [
          ["round", (r) => toRound(r.no)], ["state", (r) => phase(r.phase)], ["updates", (r) => `${r.accepted} of ${r.goal}`, "n"],
          ["time", (r) => seconds(r.seconds), "n"], ["updates' bytes", (r) => bytes(r.up_bytes), "n"], ["models' bytes", (r) => bytes(r.down_bytes), "n"],
          ...run.run.densities.map((d) => [`at ${d}`, (r) => score(r.scores?.[d]), "n"]), ["note", (r) => r.note],
        ], [...run.rounds].reverse())
      : h("p", {}, "No round has begun yet."),
  ];
}

export function round(found) {
  const r = found.round;
  return [
    h("h1", {}, r.no === 0 ? "Warm-up" : `Round ${r.no}`),
    facts([["state", r.phase], ["updates", `${r.accepted} of ${r.goal}`], ["quorum", String(r.quorum)], ["time", seconds(r.seconds)],
      ["deadline", seconds(r.deadline_s)], ["learning rate", r.rate.toPrecision(3)], ["base", r.base || "first"], ["model", r.model || "-"]]),
    r.note ? card("Note", h("p", {}, r.note)) : null,
    card("Cohort", table(`${found.tasks.length} devices`, [
      ["device", (t) => toDevice(t.device)], ["density", (t) => density(t.density), "n"], ["task", (t) => phase(t.phase)],
      ["late", (t) => (t.late ? h("span", { class: "warn" }, "late") : "")], ["examples", (t) => number(t.examples), "n"],
      ["time", (t) => seconds(t.seconds), "n"], ["update", (t) => bytes(t.up_bytes), "n"], ["note", (t) => t.why],
    ], found.tasks)),
    card("Coverage", coverage(found.coverage)),
  ];
}

function bar(parts) {
  const whole = h("span", { class: "bar", "aria-hidden": "true" });
  for (const [fraction, look] of parts) {
    const piece = h("i", { class: look });
    piece.style.width = `${100 * fraction}%`; // the style attribute would be inline style
    whole.append(piece);
  }
  return whole;
}

function coverage(layers) {
  if (!layers.length) return h("p", { class: "dim" }, "Known once updates of frozen masks are in.");
  const most = Math.max(...layers.flatMap((l) => l.held.map(([devices]) => devices)));
  const tone = (devices) => (devices ? `d${Math.max(1, Math.round((4 * devices) / most))}` : "");
  return table("Share of each layer's weights by how many devices held them; a weight nobody held keeps its value", [
    ["layer", (l) => h("code", {}, l.name)], ["weights", (l) => number(l.size), "n"],
    ["share", (l) => bar(l.held.map(([devices, weights]) => [weights / l.size, tone(devices)]))],
    ["devices: share", (l) => l.held.map(([devices, weights]) => `${devices}: ${share(weights, l.size)}`).join(", ")],
  ], layers);
}

// -- warm-up and exports -------------------------------------------------------------

export function warmUp(found) {
  return [
    h("h1", {}, "Warm-up"),
    h("p", {}, found.measured
      ? "What the warm-up kept in each layer, and what each layer keeps after recalibration to the target density."
      : "This algorithm has no warm-up: the masks follow from the layers' shapes."),
    table("Kept weights per layer", [
      ["layer", (l) => h("code", {}, l.name)], ["weights", (l) => number(l.size), "n"],
      ...(found.measured ? [["measured", (l) => share(l.measured, l.size), "n"]] : []),
      ...found.densities.flatMap((d) => [[`density ${d}`, (l) => share(l.kept[d], l.size), "n"], [`kept`, (l) => number(l.kept[d]), "n"]]),
      ["share", (l) => bar([[l.kept[found.densities.at(-1)] / l.size, "d4"]])],
    ], found.layers),
  ];
}

export function exports_(found) {
  return [
    h("h1", {}, "Exports"),
    found.files.length
      ? table("Files of this run; check one with the command beside it", [
          ["file", (f) => h("a", { href: `files/${f.path}`, download: true, "data-key": `file ${f.path}` }, f.path)], ["size", (f) => bytes(f.size), "n"],
          ["SHA-256", (f) => h("code", {}, f.sha256)], ["checks", (f) => f.checks.map(([name, value]) => h("div", {}, `${name}: ${value}`))],
          ["verify", (f) => (f.command ? h("code", {}, f.command) : "-")],
        ], found.files)
      : h("p", {}, "No model has been deployed yet; checkpoints appear here after the last round."),
  ];
}
