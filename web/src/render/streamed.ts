import type { Token } from "marked";
import { CodeBlock, jsonBlock, pretty } from "./code";
import { blocksOf, elementsOf } from "./markdown";

const FENCE = /^\n* {0,3}(`{3,}|~{3,})([^\n`]*)\n/;
/** A text that takes long to draw is drawn less often, so that it takes a part of the time only. */
const REST = 4;

/**
 * Markdown that grows. A block that is finished (another has begun behind it) is drawn for good; only the last one is
 * drawn again as it grows, and code, which may be long, is appended to. So a token costs no more in a long answer, or
 * below a long chat, than in a short one.
 */
export class StreamedMarkdown {
  private text = "";
  /** Up to here the text is drawn for good. */
  private settled = 0;
  private tail: Node[] = [];
  private growing: { block: CodeBlock; from: number; shown: number; fence: string } | null = null;
  private frame = 0;
  private restUntil = 0;
  private refersToLater = false;

  /** `drawn` is called whenever something was, with the texts of blocks that are finished. */
  constructor(
    private readonly root: HTMLElement,
    private readonly drawn: (finished: string) => void = () => undefined,
  ) {}

  append(text: string): void {
    this.text += text.replaceAll("\r", "");
    if (!this.frame) this.frame = requestAnimationFrame(this.tick);
  }

  /** No more comes. */
  finish(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const json = /^\s*[[{]/.test(this.text) ? pretty(this.text) : null;
    if (json !== null) {
      this.root.replaceChildren(jsonBlock(json));
      this.drawn(this.text.slice(this.settled));
      return;
    }
    this.draw(true);
    if (this.refersToLater) this.root.replaceChildren(elementsOf(blocksOf(this.text)));
  }

  private readonly tick = (now: number): void => {
    if (now < this.restUntil) {
      this.frame = requestAnimationFrame(this.tick);
      return;
    }
    this.frame = 0;
    const begun = performance.now();
    this.draw(false);
    const end = performance.now();
    this.restUntil = end + (end - begun) * REST;
  };

  private draw(all: boolean): void {
    const before = this.settled;
    if (all || !this.drawFence()) this.drawBlocks(all);
    this.drawn(this.text.slice(before, this.settled));
  }

  /** Whether the text ends in a fence that is still open, which was appended to. */
  private drawFence(): boolean {
    if (!this.growing) {
      const rest = this.text.slice(this.settled);
      const match = FENCE.exec(rest);
      if (!match) return false;
      const language = (match[2] ?? "").trim().split(/\s/)[0] ?? "";
      const from = this.settled + match[0].length;
      this.growing = { block: new CodeBlock(language.toLowerCase()), from, shown: from, fence: match[1] ?? "```" };
      this.replaceTail([this.growing.block.root]);
    }
    const { block, from, shown, fence } = this.growing;
    // The line that closes it may be the first one; a part of it must not be shown as code.
    const begin = Math.max(from - 1, shown - fence.length - 5);
    const closing = new RegExp(`\\n {0,3}${fence[0]}{${fence.length},}[ \\t]*(\\n|$)`).exec(this.text.slice(begin));
    if (closing) {
      if (!closing[1]) return true; // more of the same line may come
      this.growing = null;
      return false;
    }
    const lastLine = this.text.lastIndexOf("\n");
    const mayClose = /^ {0,3}[`~]*[ \t]*$/.test(this.text.slice(lastLine + 1));
    const end = mayClose ? Math.max(shown, lastLine) : this.text.length;
    block.append(this.text.slice(shown, end));
    this.growing.shown = end;
    return true;
  }

  private drawBlocks(all: boolean): void {
    this.growing = null;
    const blocks = blocksOf(this.text.slice(this.settled)) as Token[];
    this.refersToLater ||= blocks.some((block) => block.type === "def");
    const last = all ? blocks.length : blocks.findLastIndex((block) => block.type !== "space");
    const finished = blocks.slice(0, Math.max(0, last));
    this.replaceTail([]);
    if (finished.length) {
      this.root.append(elementsOf(finished));
      this.settled += finished.reduce((length, block) => length + block.raw.length, 0);
    }
    if (last < blocks.length && !(finished.length && this.drawFence())) {
      this.replaceTail([...elementsOf(blocks.slice(last)).childNodes]);
    }
  }

  private replaceTail(nodes: Node[]): void {
    for (const node of this.tail) node.parentNode?.removeChild(node);
    this.root.append(...nodes);
    this.tail = nodes;
  }
}

/** Markdown that is whole. */
export function drawMarkdown(root: HTMLElement, text: string): void {
  const streamed = new StreamedMarkdown(root);
  streamed.append(text);
  streamed.finish();
}
