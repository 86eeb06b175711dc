// Formulas in Markdown: $...$ and \(...\) in a line, $$...$$ and \[...\] on their own. They go through the cleaning as
// text in `code` elements, and become formulas behind it (maths.ts).
import type { TokenizerAndRendererExtension } from "marked";
import { escaped } from "./escaped";

const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
const DISPLAY_IN_LINE = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/;
// "$5 and $6" are prices: no space inside the signs, no digit behind the last one.
const IN_LINE = /^(?:\$((?:\\.|[^$\\\n])*?[^\s$\\]|[^\s$\\])\$(?!\d)|\\\(([\s\S]+?)\\\))/;

export const MATHS: TokenizerAndRendererExtension[] = [
  {
    name: "mathsBlock",
    level: "block",
    start: (source) => source.match(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)?.index,
    tokenizer: (source) => token("mathsBlock", BLOCK.exec(source), true),
    renderer: ({ formula }) => `<p>${written(String(formula), true)}</p>`,
  },
  {
    name: "mathsInline",
    level: "inline",
    start: (source) => source.match(/\$|\\[([]/)?.index,
    tokenizer(source) {
      const display = DISPLAY_IN_LINE.exec(source);
      if (display) return token("mathsInline", display, true);
      const line = IN_LINE.exec(source);
      return line && /^\s/.test(line[1] ?? "") ? undefined : token("mathsInline", line, false);
    },
    renderer: ({ formula, display }) => written(String(formula), Boolean(display)),
  },
];

function token(type: string, match: RegExpExecArray | null, display: boolean) {
  return match ? { type, raw: match[0], formula: (match[1] ?? match[2] ?? "").trim(), display } : undefined;
}

function written(formula: string, display: boolean): string {
  return `<code class="maths${display ? " maths-display" : ""}">${escaped(formula)}</code>`;
}
