// Formulas, by KaTeX, which is loaded when the first one is met.
import { h } from "../dom";

const LIMITS = { throwOnError: true, trust: false, strict: "ignore", maxExpand: 500, maxSize: 20, errorColor: "currentcolor" } as const;
/** The frame would be a style written in markup, which the page's policy refuses. */
const FRAMELESS = { "\\fcolorbox": "\\@secondoftwo{#1}{\\colorbox{#2}{#3}}" };
let library: Promise<typeof import("katex").default> | null = null;

/** Draws a formula in place of the `code` element that spells it; one that cannot be read stays as it is. */
export async function drawFormula(code: HTMLElement): Promise<void> {
  const formula = code.textContent ?? "";
  const display = code.classList.contains("maths-display");
  library ??= load();
  const katex = await library;
  const drawn = h("span", { class: display ? "formula display" : "formula", dir: "ltr", tabindex: display ? 0 : null });
  try {
    katex.render(formula, drawn, { ...LIMITS, displayMode: display, macros: { ...FRAMELESS } });
    code.replaceWith(drawn);
  } catch (error) {
    code.title = (error as Error).message;
  }
}

async function load(): Promise<typeof import("katex").default> {
  const style = document.querySelector<HTMLMetaElement>('meta[name="math-style"]')?.content ?? "";
  document.head.append(h("link", { rel: "stylesheet", href: style }));
  return (await import("katex")).default;
}
