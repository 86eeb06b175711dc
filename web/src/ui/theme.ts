import { keepTheme, theme, type Theme } from "../chats/preferences";

/** The style sheet follows the system where the root names no theme. */
export function applyTheme(): void {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

export function setTheme(chosen: Theme): void {
  keepTheme(chosen);
  applyTheme();
}
