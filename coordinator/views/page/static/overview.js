// The overview: what to do next, how the run stands, what it saves, who needs a look.

import { ago, card, countdown, dim, facts, h, moment, note, words } from "./dom.js";
import { bar, figure, shade } from "./figures.js";
import { named, score, state, tests, times, toDevice } from "./words.js";
import { bytes, density, number, percent, seconds } from "./units.js";

const MOST = 5; // rows of what needs a look

export function overview(run) {
  return [
    h("h1", {}, "Overview"),
    next(run),
    glance(run),
    run.rounds.some((r) => r.scores) || run.savings ? charts(run) : card("Figures", dim("Available after the first round.")),
    h("div", { class: "grid" }, card("Fleet", fleet(run)), attention(run)),
  ];
}

function next(run) {
  const report = run.rounds.length ? h("p", {}, h("a", { href: "report.html", "data-key": "report" }, "Open the report"), " of all of it, one file to keep or mail.") : null;
  return h("section", { class: "card next" }, h("h2", {}, run.state === "done" ? "Done: next step" : "Next step"),
    h("p", {}, words(run.next.say, "next", 240)),
    h("ul", { class: "commands" }, run.next.commands.map(({ what, command }) => h("li", {}, h("span", { class: "dim" }, what), h("code", {}, command)))),
    report);
}

function glance(run) {
  const { savings, participation, metric, open } = run;
  const scored = run.rounds.findLast((r) => r.scores);
  const names = run.run.densities.filter((d) => scored?.scores[d]);
  const trained = participation.devices.filter((d) => d.trained).length;
  const online = run.devices.filter((d) => d.online).length;
  const measured = names.length > 3 ? [names[0], names.at(-1)] : names;
  return facts([
    run.run.rounds
      ? ["rounds done", `${run.rounds_done} of ${run.run.rounds}`, bar([[Math.min(1, run.rounds_done / run.run.rounds), "d4"]])]
      : ["rounds done", `${run.rounds_done}`, "until it is stopped"],
    ...measured.map((d) => [`${named(metric)} at density ${d}`, score(scored.scores[d], metric), `after round ${scored.no}`]),
    ...tests(run.rounds.findLast((r) => r.on_devices), metric, 2),
    run.privacy && ["epsilon", run.privacy.epsilon?.toPrecision(3) ?? "no bound", `${run.privacy.noise} noise, delta ${run.privacy.delta}${run.privacy.budget ? `, of ${run.privacy.budget}` : ""}`],
    savings && ["bytes, compared with dense", `${times(savings.times_fewer_bytes)} fewer`, `${bytes(savings.bytes)}, not ${bytes(savings.dense_bytes)}${savings.is_whole ? "" : " at least"}`],
    savings?.times_fewer_macs && ["compute, compared with dense", `${times(savings.times_fewer_macs)} less`, "multiply-accumulates of training"],
    participation.share !== null && ["examples trained on", percent(participation.share), `${trained} of ${participation.devices.length} devices`],
    run.runs ? ["devices online", `${online} of ${run.devices.length}`] : ["devices", number(run.devices.length), "no coordinator runs now"],
    open && ["this round", `${open.accepted} of ${open.goal} updates`, open.deadline ? ["ends ", countdown(open.deadline)] : null],
    run.began && ["began", ago(run.began), moment(run.began)],
    run.state === "done" && run.ended && ["ended", ago(run.ended), [moment(run.ended), `, took ${seconds((Date.parse(run.ended) - Date.parse(run.began)) / 1000)}`]],
    !run.began && ["task", run.run.task, run.run.algorithm],
    !run.began && ["densities", run.run.densities.map(density).join(", ")],
  ]);
}

function charts(run) {
  const { metric } = run;
  const scored = run.rounds.filter((r) => r.scores);
  const name = named(metric)[0].toUpperCase() + named(metric).slice(1);
  let moved = 0;
  const total = new Map(run.rounds.map((r) => [r.no, (moved += r.up_bytes + r.down_bytes)]));
  const series = run.run.densities.map((d) => ({ name: `density ${d}`, values: scored.map((r) => r.scores[d]?.[metric.name] ?? null) }));
  const y = { label: named(metric), kind: metric.is_share ? "percent" : "number" };
  const by = run.savings?.by_round ?? [];
  return h("div", { class: "grid three" },
    card(`${name} by round`, figure({ title: `${name} by round`, x: { label: "round", kind: "count", values: scored.map((r) => r.no) }, y, series })),
    card(`${name} by bytes`, figure({ title: `${name} by bytes`, x: { label: "updates and models sent", kind: "bytes", values: scored.map((r) => total.get(r.no)) }, y, series })),
    card("Bytes, compared with dense", figure({
      title: "Bytes, compared with dense", x: { label: "round", kind: "count", values: by.map((r) => r.no) }, y: { label: "bytes moved", kind: "bytes" },
      series: [{ name: "this run", values: by.map((r) => r.bytes) }, { name: "dense float32", values: by.map((r) => r.dense_bytes) }],
    })));
}

function look(device, all) {
  const parts = [all.includes(device.density) ? shade(device.density, all) : ""];
  if (!device.online) parts.push("off");
  if (device.refused) parts.push("refused");
  else if (device.task === "accepted") parts.push("done");
  else if (["training", "fetching", "uploading"].includes(device.phase)) parts.push("busy");
  return parts.join(" ").trim();
}

function fleet(run) {
  if (!run.devices.length) return dim("No device has sent a HELLO yet.");
  const all = [...run.run.densities].sort((a, b) => a - b);
  const said = (d) =>
    `${d.name}: density ${density(d.density)}, ${state(d)}${d.refused ? `, ${d.refused} refused` : ""}`;
  const ring = (kind, text) => h("li", {}, h("span", { class: `ring ${kind}` }), text);
  return [
    h("ul", { class: "fleet" }, run.devices.map((d) => h("li", {},
      h("a", { href: `#/devices/${encodeURIComponent(d.name)}`, class: look(d, all), title: said(d), "aria-label": said(d), "data-key": `map ${d.name}` })))),
    h("ul", { class: "legend" },
      all.map((d) => h("li", {}, h("span", { class: shade(d, all) }), `density ${d}`)),
      ring("warn", "working"), ring("good", "update accepted"), ring("bad", "updates refused"), h("li", {}, "faded: offline")),
  ];
}

// Who never took part, was slow, was refused: with the reason, the worst first.
function attention(run) {
  const rows = [
    ...run.participation.devices.filter((d) => d.warning).map((d) => [d.name, "bad", d.warning, d.reason]),
    ...run.participation.devices.filter((d) => d.sits_out && !d.warning).map((d) => [d.name, "warn", "not asked for now", d.sits_out]),
    ...run.devices.filter((d) => d.data_error && d.phase !== "revoked").map((d) => [d.name, "bad", "its data cannot be read", d.data_error]),
    ...run.devices.filter((d) => d.test_error && d.phase !== "revoked").map((d) => [d.name, "warn", "its test lacks something", d.test_error]),
    ...(run.slow?.devices ?? []).map((d) => [d.device, "warn",
      d.seconds ? `slow in round ${run.slow.round}: ${seconds(d.seconds)}${d.times ? `, ${times(d.times)} the median` : ""}` : `late in round ${run.slow.round}`, d.why]),
    ...run.refusals.filter((r) => r.kind === "refused").map((r) => [r.device, "bad", `refused ${number(r.count)} ${r.count === 1 ? "time" : "times"}`, r.why]),
  ];
  const shown = rows.slice(0, MOST);
  return card("Needs a look", rows.length
    ? h("ul", { class: "attention" }, shown.map(([name, kind, what, why], i) => h("li", {},
        h("p", {}, toDevice(name), " ", h("span", { class: kind }, what)), why ? h("div", { class: "dim" }, note(why, `look ${i} ${name}`)) : null)))
    : dim(run.devices.length ? "Nothing: every device takes part, in time." : "Nothing yet."),
  rows.length > MOST ? dim(`and ${rows.length - MOST} more; each device's page has its own.`) : null);
}
