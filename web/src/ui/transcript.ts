import type { Brought } from "../chats/answering";
import type { Message } from "../chats/types";
import { h, iconButton } from "../dom";
import { ICONS } from "../icons";
import { AnswerView } from "./answer";
import { QuestionView } from "./question";
import type { Deeds, View } from "./view";

/** So near the end, the view follows what comes. */
const NEAR = 80;
/** So many of the last messages are drawn at once, so that the end of a chat has its height from the start. */
const AT_ONCE = 12;
const HOLD_FRAMES = 20;
const LABELS = { user: "You", assistant: "Answer", tool: "Result of a tool" };

interface Item {
  root: HTMLElement;
  message: Message;
  view: View;
  drawn: boolean;
}

/**
 * The messages of a branch in a scrolling column. A message is plain text until it comes near the screen, and the
 * browser lays out only those on it, so thousands cost little.
 */
export class Transcript {
  readonly root: HTMLElement;
  private readonly list = h("div", { class: "messages", role: "log", "aria-live": "off", "aria-label": "Conversation" });
  private readonly toEnd: HTMLButtonElement;
  private readonly items = new Map<string, Item>();
  private readonly scroller: HTMLElement;
  private readonly nearby: IntersectionObserver;
  private follows = true;
  private scrolling = 0;

  constructor(private readonly deeds: Deeds) {
    this.toEnd = iconButton(ICONS.bottom, "To the end", () => this.scrollToEnd(), { class: "icon-button to-end", hidden: true });
    this.scroller = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Messages" }, this.list);
    this.root = h("section", { class: "lane" }, this.scroller, this.toEnd);
    this.nearby = new IntersectionObserver((entries) => this.drawThose(entries), { root: this.scroller, rootMargin: "1200px 0px" });
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    new ResizeObserver(() => this.follow()).observe(this.list);
  }

  /** Shows these messages and no others. */
  show(path: readonly Message[]): void {
    const wanted = new Set(path.map((message) => message.id));
    for (const [id, item] of this.items) {
      if (wanted.has(id)) continue;
      this.nearby.unobserve(item.root);
      item.root.remove();
      this.items.delete(id);
    }
    const added = path.filter((message) => !this.items.has(message.id)).map((message) => this.add(message));
    this.list.append(...added.map((item) => item.root));
    for (const item of added.slice(-AT_ONCE)) this.draw(item);
    for (const item of this.items.values()) if (item.drawn) item.view.refresh();
    if (added.length) this.scrollToEnd();
  }

  brought(message: Message, brought: Brought): void {
    this.items.get(message.id)?.view.brought?.(brought);
  }

  ended(message: Message): void {
    this.items.get(message.id)?.view.ended?.();
  }

  refresh(): void {
    for (const item of this.items.values()) if (item.drawn) item.view.refresh();
  }

  /** Brings a message to the middle of the screen, and marks it for a moment. */
  reveal(id: string): void {
    const item = this.items.get(id);
    if (!item) return;
    this.follows = false;
    this.draw(item);
    this.holdInMiddle(item.root, HOLD_FRAMES);
    item.root.classList.add("revealed");
    setTimeout(() => item.root.classList.remove("revealed"), 2500);
  }

  edit(message: Message): void {
    this.items.get(message.id)?.view.beginEdit?.();
  }

  scrollToEnd(): void {
    this.follows = true;
    this.follow();
  }

  private add(message: Message): Item {
    const root = h("article", { class: `message ${message.role}`, "aria-label": LABELS[message.role] });
    root.append(h("div", { class: "as-written", dir: "auto" }, message.text));
    const view = message.role === "assistant" ? new AnswerView(root, message, this.deeds) : new QuestionView(root, message, this.deeds);
    const item = { root, message, view, drawn: false };
    this.items.set(message.id, item);
    root.dataset.id = message.id;
    this.nearby.observe(root);
    return item;
  }

  /** Messages around it get their true heights as they are drawn, and would push it away. */
  private holdInMiddle(root: HTMLElement, frames: number): void {
    root.scrollIntoView({ block: "center" });
    if (frames > 0) requestAnimationFrame(() => this.holdInMiddle(root, frames - 1));
  }

  private drawThose(entries: IntersectionObserverEntry[]): void {
    for (const entry of entries) {
      const item = entry.isIntersecting ? this.items.get((entry.target as HTMLElement).dataset.id ?? "") : undefined;
      if (item) this.draw(item);
    }
  }

  private draw(item: Item): void {
    if (item.drawn) return;
    item.drawn = true;
    this.nearby.unobserve(item.root);
    item.view.draw();
  }

  /** Only the user's own scrolling ends following: what grows below the screen does not. */
  private noteScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const away = scrollHeight - clientHeight - scrollTop;
    if (away <= NEAR) this.follows = true;
    else if (scrollTop < this.scrolling) this.follows = false;
    this.scrolling = scrollTop;
    this.toEnd.hidden = away <= NEAR * 4 || this.follows;
  }

  private follow(): void {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}
