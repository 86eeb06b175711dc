// What the page adds to the elements of Markdown.
import { h } from "../dom";
import { codeBlock } from "./code";
import { drawFormula } from "./maths";

const BLOCKS = "p, li, h1, h2, h3, h4, h5, h6, blockquote, td, th, ul, ol, summary";

export function finishBlock(root: DocumentFragment): void {
  for (const block of root.querySelectorAll<HTMLElement>(BLOCKS)) block.dir = "auto";
  for (const code of root.querySelectorAll<HTMLElement>("pre > code")) {
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    code.parentElement?.replaceWith(codeBlock((code.textContent ?? "").replace(/\n$/, ""), language.toLowerCase()));
  }
  for (const code of root.querySelectorAll<HTMLElement>("code.maths")) void drawFormula(code);
  for (const link of root.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of root.querySelectorAll("table")) {
    const scroller = h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "table" });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  for (const box of root.querySelectorAll("input")) {
    box.disabled = true;
    box.setAttribute("aria-label", box.checked ? "done" : "not done");
  }
}
