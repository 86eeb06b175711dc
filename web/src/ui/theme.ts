import { keepTheme, theme, type Theme } from "../chats/preferences";
import { iconButton } from "../dom";
import { ICONS } from "../icons";

const THEMES: Theme[] = ["system", "light", "dark"];

/** The style sheet follows the system where the root names no theme. */
export function applyTheme(): void {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

/** Goes from one theme to the next. */
export function themeButton(): HTMLButtonElement {
  const control = iconButton(ICONS.theme, "", () => {
    keepTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length] ?? "system");
    applyTheme();
    name();
  });
  const name = (): void => {
    control.title = `Theme: ${theme()}`;
    control.setAttribute("aria-label", control.title);
  };
  name();
  return control;
}
