// The words that several views share: links, states, scores.

import { h } from "./dom.js";
import { percent, short } from "./units.js";

export const toDevice = (name) => h("a", { href: `#/devices/${encodeURIComponent(name)}`, "data-key": `device ${name}` }, name);
export const toRound = (no) => h("a", { href: `#/rounds/${no}`, "data-key": `round ${no}` }, no === 0 ? "warm-up" : String(no));
export const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "-");
export const times = (ratio) => (ratio === null || ratio === undefined ? "-" : `${ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(1)}x`);

const LOOKS = { accepted: "good", done: "good", rejected: "bad", failed: "bad", aborted: "bad", expired: "warn" };
export const phase = (text) => (text ? h("span", { class: LOOKS[text] ?? null }, text) : "");

// A metric's name as words.
export const named = (metric) => metric.name.replaceAll("_", " ");

// What devices say of a model on their own test examples: facts, one for each density.
export function tests(row, metric, most = 9) {
  const found = Object.entries(row?.on_devices ?? {}).sort(([a], [b]) => a - b);
  const shown = found.length > most ? [found[0], found.at(-1)] : found;
  const text = (value) => (value === null ? "-" : score({ [metric.name]: value }, metric));
  return shown.map(([d, t]) => [`worst tenth of devices at ${d}`, text(t.worst_tenth), `median ${text(t.median)}, spread ${text(t.spread)}, ${t.devices} devices, round ${row.no}`]);
}

// What an evaluation measured: the run's metric by its own name, a share in percent.
export function score(metrics, metric) {
  if (!metrics) return "";
  const value = metrics[metric.name];
  if (value === undefined) return "";
  if (value === null) return h("span", { class: "bad" }, "not finite");
  return metric.is_share ? percent(value) : short(value);
}

// Where a device is, in a word.
export const state = (device) => (device.phase === "revoked" ? "revoked" : device.online ? device.phase || "online" : "offline");

export const now = (device) => {
  if (device.phase === "revoked") return h("span", { class: "bad" }, "revoked");
  if (!device.online) return h("span", { class: "dim" }, "offline");
  const at = device.phase === "training" && device.progress !== null ? ` ${Math.round(100 * device.progress)} %` : "";
  return `${state(device)}${at}`;
};
