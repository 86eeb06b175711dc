// What the page remembers besides chats. A browser that keeps nothing still works.
import { NO_SETTINGS, type Settings } from "./types";

export type Theme = "system" | "light" | "dark";

export function theme(): Theme {
  const kept = read("theme");
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function keepTheme(value: Theme): void {
  write("theme", value);
}

export function lastModel(): string | null {
  return read("model");
}

export function keepModel(name: string): void {
  write("model", name);
}

/** What new chats begin with. */
export function defaults(): Settings {
  try {
    return { ...NO_SETTINGS, ...(JSON.parse(read("settings") ?? "{}") as Partial<Settings>) };
  } catch {
    return { ...NO_SETTINGS };
  }
}

export function keepDefaults(settings: Settings): void {
  write("settings", JSON.stringify(settings));
}

function read(name: string): string | null {
  try {
    return localStorage.getItem(`landrace.${name}`);
  } catch {
    return null;
  }
}

function write(name: string, value: string): void {
  try {
    localStorage.setItem(`landrace.${name}`, value);
  } catch {
    // The browser keeps nothing for this page; the choice holds until it is closed.
  }
}
