import { copyWith, h, iconButton } from "../dom";
import { ICONS } from "../icons";
import { colour } from "./highlight";

/** A block of code with its language and a button that copies it. */
export class CodeBlock {
  readonly root: HTMLElement;
  private readonly code = h("code");

  constructor(private readonly language: string) {
    const copy = iconButton(ICONS.copy, "Copy code", () => void copyWith(copy, this.code.textContent ?? ""));
    const label = h("span", {}, language || "text");
    this.root = h(
      "figure",
      { class: "code", dir: "ltr" },
      h("figcaption", {}, label, copy),
      // A region that scrolls has to be reachable by keyboard.
      h("pre", { tabindex: 0, role: "region", "aria-label": language ? `${language} code` : "code" }, this.code),
    );
  }

  append(text: string): void {
    this.code.append(text);
  }

  /** No more comes. */
  finish(): void {
    void colour(this.code, this.language);
  }
}

export function codeBlock(text: string, language: string): HTMLElement {
  const block = new CodeBlock(language);
  block.append(text);
  block.finish();
  return block.root;
}

/** JSON, indented if it can be read. */
export function jsonBlock(text: string): HTMLElement {
  return codeBlock(pretty(text) ?? text, "json");
}

/** null: not JSON. */
export function pretty(text: string): string | null {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}
