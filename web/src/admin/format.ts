// Numbers as a person reads them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const NOTHING = "–";

export function count(value: number | null): string {
  return value === null ? NOTHING : Math.round(value).toLocaleString();
}

/** Three digits are enough for a rate. */
export function rate(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString() : String(Number(value.toPrecision(3)));
}

export function seconds(value: number | null): string {
  if (value === null) return NOTHING;
  if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
  return value < 100 ? `${Number(value.toPrecision(3))} s` : `${Math.round(value).toLocaleString()} s`;
}

export function bytes(value: number): string {
  const place = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), UNITS.length - 1);
  return `${Number((value / 1024 ** place).toPrecision(3))} ${UNITS[place]}`;
}

export function money(value: number): string {
  return value === 0 ? "0" : value < 0.01 ? value.toPrecision(2) : value.toFixed(2);
}

export function duration(value: number): string {
  const minutes = Math.floor(value / 60);
  if (minutes < 1) return `${Math.floor(value)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export function moment(when: string | number): string {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** The last part of a path or a repository's name. */
export function shortened(name: string): string {
  return name.split("/").filter(Boolean).at(-1) ?? name;
}
