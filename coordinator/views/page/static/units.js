// Numbers as people read them. No imports: the report carries this file inside itself.

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB"];
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const trimmed = (value, digits) => String(Number(value.toFixed(digits)));

// Bytes in the unit that leaves few digits, as the terminal has them.
export function bytes(count) {
  if (!known(count)) return "-";
  let unit = 0;
  while (unit < BINARY.length - 1 && Math.abs(Number(count.toFixed(unit ? 1 : 0))) >= 1024) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count.toFixed(0)} ${BINARY[unit]}`;
}

export const number = (value) => (known(value) ? value.toLocaleString("en") : "-");
export const percent = (share) => (known(share) ? `${(100 * share).toFixed(2)} %` : "-");
export const short = (value) => (known(value) ? String(Number(value.toPrecision(4))) : "-");
export const density = (value) => (known(value) ? String(value) : "-");

export function seconds(value) {
  if (!known(value)) return "-";
  if (value < 120) return `${value.toFixed(1)} s`;
  if (value < 7200) return `${(value / 60).toFixed(0)} min`;
  return value < 172800 ? `${(value / 3600).toFixed(1)} h` : `${(value / 86400).toFixed(1)} d`;
}

// One value of a kind of axis: "percent", "bytes", "count" or "number".
export const inWords = { percent, bytes, count: number, number: short };

// The marks of an axis, all in one unit and with the digits that their step needs.
export function marks(kind, values, step) {
  const finite = values.filter((value) => value !== null);
  const most = Math.max(0, ...finite.map(Math.abs));
  if (kind === "bytes") {
    let unit = 0;
    while (unit < BINARY.length - 1 && most >= 1024 ** (unit + 1) && step * 8 >= 1024 ** (unit + 1)) unit += 1;
    return values.map((v) => (v === null ? "" : v === 0 ? "0" : `${trimmed(v / 1024 ** unit, 3)} ${BINARY[unit]}`));
  }
  const scale = kind === "percent" ? 100 : 1;
  const digits = Math.min(8, Math.max(0, Math.ceil(-Math.log10(step * scale) - 1e-9)));
  const far = most >= 1e6 || (most > 0 && most < 1e-4);
  const text = (v) => (far ? Number(v.toPrecision(4)).toExponential() : (scale * v).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return values.map((v) => (v === null ? "" : `${text(v)}${kind === "percent" ? " %" : ""}`));
}
