// What the warm-up found, and what there is to take away.

import { card, dim, h, table } from "./dom.js";
import { bar } from "./figures.js";
import { share } from "./words.js";
import { bytes, number } from "./units.js";

const MOST = 3; // densities with columns of their own; of more the ends

export function warmUp(found) {
  const all = found.densities;
  const shown = all.length > MOST ? [all[0], all.at(-1)] : all;
  return [
    h("h1", {}, "Warm-up"),
    h("p", {}, found.measured
      ? "Share of each layer that the warm-up kept, and that it keeps after recalibration to the target density."
      : "This algorithm has no warm-up: the masks follow from the layers' shapes."),
    h("section", { class: "card" }, table("Kept weights per layer", [
      ["layer", (l) => h("code", {}, l.name), "name"], ["weights", (l) => number(l.size), "n"],
      ...(found.measured ? [["warm-up", (l) => (l.measured === null ? "-" : share(l.measured, l.size)), "n"]] : []),
      ...shown.flatMap((d) => [[`density ${d}`, (l) => [share(l.kept[d], l.size), h("small", {}, number(l.kept[d]))], "n"]]),
      [`share at ${all.at(-1)}`, (l) => bar([[l.kept[all.at(-1)] / l.size, "d4"]]), "bars"],
    ], found.layers, { find: (l) => l.name })),
  ];
}

export function exports_(found) {
  const report = h("p", {}, h("a", { href: "report.html", "data-key": "report" }, "Report of the run"), ": all figures, tables and digests in one file.");
  if (!found.files.length) {
    return [
      h("h1", {}, "Exports"),
      card("No model has been deployed yet", h("p", {}, "Checkpoints appear here after the last round, exports when they are made."),
        h("ul", { class: "commands" }, found.commands.map(({ what, command }) => h("li", {}, h("span", { class: "dim" }, what), h("code", {}, command)))), report),
    ];
  }
  return [
    h("h1", {}, "Exports"),
    report,
    h("section", { class: "card" }, table("Files of this run, each with the command that checks it or exports it", [
      ["file", (f) => h("a", { href: `files/${f.path.split("/").map(encodeURIComponent).join("/")}`, download: true, "data-key": `file ${f.path}` }, f.path), "name"],
      ["size", (f) => bytes(f.size), "n"],
      ["SHA-256", (f) => h("code", {}, f.sha256), "text"],
      ["checks", (f) => f.checks.map(([name, value]) => h("div", {}, `${name}: ${value}`)), "text"],
      ["command", (f) => h("code", {}, f.command), "text"],
    ], found.files)),
    dim("The commands are for the machine that this run's folder is on."),
  ];
}
