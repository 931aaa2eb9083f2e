// The list of rounds, and one of them.

import { card, dim, facts, h, moment, note, table, words } from "./dom.js";
import { bar } from "./figures.js";
import { named, phase, score, share, tests, toDevice, toRound } from "./words.js";
import { bytes, density, number, seconds } from "./units.js";

const MOST = 3; // columns of scores; of more densities the ends

export function rounds(run) {
  const all = run.run.densities;
  const shown = all.length > MOST ? [all[0], all.at(-1)] : all;
  return [
    h("h1", {}, "Rounds"),
    run.rounds.length ? glance(run) : null,
    h("section", { class: "card" }, run.rounds.length
      ? table("Rounds, newest first", [
          ["round", (r) => toRound(r.no)], ["state", (r) => phase(r.phase)], ["updates", (r) => `${r.accepted} of ${r.goal}`, "n"],
          ["time", (r) => seconds(r.seconds), "n"], ["updates' bytes", (r) => bytes(r.up_bytes), "n"], ["models' bytes", (r) => bytes(r.down_bytes), "n wide"],
          ...shown.map((d) => [`${named(run.metric)} at ${d}`, (r) => score(r.scores?.[d], run.metric), "n"]), ["note", (r) => note(r.note || r.worse, `round ${r.no}`), "text"],
        ], [...run.rounds].reverse())
      : [h("p", {}, "No round has begun yet."), dim(run.next.say)]),
  ];
}

function glance({ rounds: all, rounds_done, run }) {
  const done = all.filter((r) => r.phase === "done" && r.no > 0);
  const took = done.map((r) => r.seconds).filter((s) => s !== null).sort((a, b) => a - b);
  const given = all.filter((r) => r.phase === "aborted");
  const mean = (key) => (done.length ? bytes(Math.round(done.reduce((sum, r) => sum + r[key], 0) / done.length)) : "-");
  return facts([
    ["done", `${rounds_done} of ${run.rounds}`],
    ["given up", number(given.length), given.length ? ["last: ", toRound(given.at(-1).no)] : null],
    ["median time", seconds(took[Math.floor(took.length / 2)] ?? null)],
    ["updates a round", mean("up_bytes"), "mean bytes"],
    ["models a round", mean("down_bytes"), "mean bytes"],
  ]);
}

export function round(found) {
  const r = found.round;
  const name = named(found.metric);
  return [
    h("h1", {}, r.no === 0 ? "Warm-up" : `Round ${r.no}`),
    facts([["state", phase(r.phase)], ["updates", `${r.accepted} of ${r.goal}`, `quorum ${r.quorum}`], ["time", seconds(r.seconds), r.deadline_s ? `deadline ${seconds(r.deadline_s)}` : null],
      ...Object.entries(r.scores ?? {}).sort(([a], [b]) => a - b).map(([d, m]) => [`${name} at ${d}`, score(m, found.metric)]),
      ...tests(r, found.metric),
      ["learning rate", Number.isFinite(r.rate) ? r.rate.toPrecision(3) : "-"], ["began", moment(r.opened)], ["base", r.base || "first"], ["model", r.model || "-"]]),
    r.note || r.worse ? card("Note", h("p", {}, words(r.note || r.worse, "note", 400))) : null,
    card("Cohort", found.tasks.length ? table(`${found.tasks.length} devices`, [
      ["device", (t) => toDevice(t.device), "name"], ["density", (t) => density(t.density), "n"], ["task", (t) => phase(t.phase)],
      ["late", (t) => (t.late ? h("span", { class: "warn" }, "late") : "")], ["examples", (t) => number(t.examples), "n"],
      ["time", (t) => seconds(t.seconds), "n"], ["update", (t) => bytes(t.up_bytes), "n"], ["note", (t) => note(t.why, `task ${t.device}`), "text"],
    ], found.tasks, { find: (t) => `${t.device} ${t.phase} ${t.why}` }) : dim("No device has been asked yet.")),
    card("Coverage", coverage(found.coverage)),
  ];
}

function coverage(layers) {
  if (!layers.length) return dim("Available once updates of frozen masks have arrived.");
  const most = Math.max(...layers.flatMap((l) => l.held.map(([devices]) => devices)));
  const tone = (devices) => (devices ? `d${Math.max(1, Math.round((4 * devices) / most))}` : "");
  const inWords = (l) => {
    const parts = l.held.map(([devices, weights]) => `${devices}: ${share(weights, l.size)}`);
    return note(parts.join(", "), `held ${l.name}`);
  };
  return table("Share of each layer's weights by how many devices held them; a weight that no device held keeps its value", [
    ["layer", (l) => h("code", {}, l.name), "name"], ["weights", (l) => number(l.size), "n"],
    ["share", (l) => bar(l.held.map(([devices, weights]) => [weights / l.size, tone(devices)])), "bars"],
    ["devices: share", inWords, "text"],
  ], layers);
}
