// The list of devices, and one of them.

import { ago, card, dim, facts, h, note, table, words } from "./dom.js";
import { now, phase, state, toDevice, toRound } from "./words.js";
import { bytes, density, number, percent, seconds, short } from "./units.js";

export function devices(run) {
  const parts = new Map(run.participation.devices.map((d) => [d.name, d]));
  const said = (d) => [parts.get(d.name)?.warning && `${parts.get(d.name).warning}: ${parts.get(d.name).reason}`, d.waits, d.pace, d.drift, d.data_error && `its data cannot be read: ${d.data_error}`, d.test_error && `its last test: ${d.test_error}`].filter(Boolean).join("; ");
  return [
    h("h1", {}, "Devices"),
    run.devices.length ? glance(run) : null,
    run.devices.length
      ? h("section", { class: "card" }, table(`${run.devices.length} devices`, [
          ["device", (d) => [toDevice(d.name), h("small", {}, d.board)], "name"],
          ["density", (d) => density(d.density), "n"],
          ["now", now],
          ["this round", (d) => phase(d.task)],
          ["rounds", (d) => { const p = parts.get(d.name); return p ? `${p.trained} of ${p.asked}` : ""; }, "n"],
          ["part of training", (d) => { const p = parts.get(d.name); return p?.part == null ? "" : percent(p.part); }, "n"],
          ["sent", (d) => bytes(d.sent), "n wide"],
          ["received", (d) => bytes(d.received), "n wide"],
          ["memory", (d) => (d.rss_mib ? `${d.rss_mib} MiB` : ""), "n wide"],
          ["refused", (d) => (d.refused ? h("span", { class: "bad" }, String(d.refused)) : ""), "n"],
          ["last seen", (d) => ago(d.last_seen), "wide"],
          ["reason for pausing or doing less", (d) => note(said(d), d.name), "text"],
        ], run.devices, { find: (d) => `${d.name} ${d.board} ${state(d)} ${d.online ? "online" : ""} ${d.density} ${said(d)}` }))
      : card("None yet", h("p", {}, "No device has sent a HELLO yet."), commands(run)),
    run.devices.length ? dim("rounds: those that count its update, of those that asked it. part of training: of all examples that all rounds trained on. sent, received: since it was installed.") : null,
  ];
}

function glance({ runs, devices: all, participation: part, refusals }) {
  const never = part.devices.filter((d) => d.warning).length;
  const refused = refusals.filter((r) => r.kind === "refused");
  return facts([
    runs ? ["online", `${all.filter((d) => d.online).length} of ${all.length}`] : ["devices", number(all.length), "no coordinator runs now"],
    part.share !== null && ["examples trained on", percent(part.share), `${number(part.examples_trained)} of ${number(part.examples)}`],
    ["never took part", String(never), never ? "reasons in the last column" : "of those that could"],
    ["refused updates", number(refused.reduce((sum, r) => sum + r.count, 0)), refused.length ? `of ${new Set(refused.map((r) => r.device)).size} devices` : null],
  ]);
}

const commands = (run) => h("ul", { class: "commands" }, run.next.commands.map(({ what, command }) => h("li", {}, h("span", { class: "dim" }, what), h("code", {}, command))));

export function device(found) {
  const d = found.device;
  const refused = found.refusals.filter((r) => r.kind === "refused");
  const others = found.refusals.filter((r) => r.kind !== "refused");
  return [
    h("h1", {}, d.name),
    facts([["board", d.board || "-"], ["density", density(d.density)], ["now", now(d)], ["last seen", ago(d.last_seen)], ["examples", number(d.examples)],
      ["sent", bytes(d.sent)], ["received", bytes(d.received)], ["memory", d.rss_mib ? `${d.rss_mib} MiB` : "-"],
      d.battery != null && ["battery", `${d.battery} %`], d.open_min != null && ["its hours end in", `${number(d.open_min)} min`], d.consent && ["consent", d.consent], ["engine", d.engine || "-"], ["version", d.version]]),
    h("div", { class: "grid" },
      card("Why this density", h("p", {}, words(d.why, "why") || "No density has been chosen yet."),
        d.labels ? h("p", {}, "Labels: ", words(d.labels, "labels")) : null, d.drift ? h("p", {}, "Its data have drifted: ", words(d.drift, "drift")) : null,
        d.data_error ? h("p", { class: "bad" }, "Its data cannot be read: ", words(d.data_error, "data_error")) : null,
        d.pace ? h("p", {}, "Does only a part of each round: ", words(d.pace, "pace")) : null, d.waits ? h("p", {}, "Waits: ", words(d.waits, "waits")) : null),
      card("Refused updates", refused.length ? verdicts("Refused updates", refused) : dim("None."),
        others.length ? [h("h3", {}, "Other verdicts"), verdicts("Other verdicts", others)] : null)),
    card("Its rounds", found.tasks.length
      ? table("Tasks, newest first", [
          ["round", (t) => toRound(t.round)], ["density", (t) => density(t.density), "n"], ["task", (t) => phase(t.phase)],
          ["examples", (t) => number(t.examples), "n"], ["steps", (t) => number(t.steps), "n wide"], ["time", (t) => seconds(t.seconds), "n"],
          ["memory", (t) => (t.peak_mib ? `${Math.round(t.peak_mib)} MiB` : ""), "n wide"], ["update", (t) => bytes(t.up_bytes), "n"],
          ["model", (t) => bytes(t.down_bytes), "n wide"], ["loss", (t) => short(t.loss), "n"],
          ["note", (t) => note(t.why, `task ${t.round}`), "text"],
        ], found.tasks)
      : dim("This device has had no task yet.")),
    found.tests.length ? card("Models on its own test examples", table("Tests, newest first", [
      ["round", (t) => toRound(t.round)], ["density", (t) => density(t.density), "n"], ["examples", (t) => number(t.examples), "n"],
      ["values", (t) => Object.entries(t.metrics).map(([name, value]) => `${name.replaceAll("_", " ")} ${value === null ? "-" : short(value)}`).join(", ")],
      ["note", (t) => note(t.why, `test ${t.round}`), "text"],
    ], found.tests)) : null,
    card("Profile", dim("As the device sent it."), h("dl", { class: "pairs" }, found.profile.map(([key, value]) =>
      h("div", {}, h("dt", {}, key), h("dd", {}, words(value, `profile ${key}`)))))),
  ];
}

const verdicts = (caption, rows) => h("ul", { class: "attention" }, rows.map((r) => h("li", {},
  h("p", {}, h("span", { class: r.kind === "refused" ? "bad" : "warn" }, r.kind === "refused" ? r.verdict : r.kind), ` ${number(r.count)} ${r.count === 1 ? "time" : "times"}, last in round `, toRound(r.round), ", ", ago(r.at)),
  h("div", { class: "dim" }, note(r.why, `${caption} ${r.verdict}`)))));
