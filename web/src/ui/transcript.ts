import type { Brought } from "../chats/answering";
import type { Message } from "../chats/types";
import { h, iconButton } from "../dom";
import { ICONS } from "../icons";
import { AnswerView } from "./answer";
import { QuestionView } from "./question";
import type { Deeds, View } from "./view";

/** So near the end, the view follows what comes. */
const NEAR = 80;
/** So many messages are laid out and drawn together: few, so that it takes little time; some, so that a long chat has few
 * groups. */
const GROUP = 8;
/** So many of the last messages are drawn at once, so that the end of a chat has its height from the start. */
const AT_ONCE = 12;
const BY_HAND = ["wheel", "touchmove", "keydown", "pointerdown"];
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
  /** A message that was searched for, until the user scrolls. */
  private held: HTMLElement | null = null;
  private scrolling = 0;

  constructor(private readonly deeds: Deeds) {
    this.toEnd = iconButton(ICONS.bottom, "To the end", () => this.scrollToEnd(), { class: "icon-button to-end", hidden: true });
    this.scroller = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Messages" }, this.list);
    this.root = h("section", { class: "lane" }, this.scroller, this.toEnd);
    this.nearby = new IntersectionObserver((entries) => this.drawThose(entries), { root: this.scroller, rootMargin: "1200px 0px" });
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    for (const event of BY_HAND) this.scroller.addEventListener(event, () => (this.held = null), { passive: true });
    new ResizeObserver(() => this.resized()).observe(this.list);
  }

  /** Shows these messages and no others. */
  show(path: readonly Message[]): void {
    const wanted = new Set(path.map((message) => message.id));
    for (const [id, item] of this.items) {
      if (wanted.has(id)) continue;
      this.takeOut(item);
      this.items.delete(id);
    }
    const added = path.filter((message) => !this.items.has(message.id)).map((message) => this.add(message));
    for (const group of new Set(added.map((item) => item.root.parentElement))) this.watch(group);
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
    this.held = item.root;
    this.resized();
    item.root.classList.add("revealed");
    setTimeout(() => item.root.classList.remove("revealed"), 2500);
  }

  edit(message: Message): void {
    this.items.get(message.id)?.view.beginEdit?.();
  }

  scrollToEnd(): void {
    this.held = null;
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
    this.place(root);
    return item;
  }

  private place(root: HTMLElement): void {
    let group = this.list.lastElementChild;
    if (!group || group.childElementCount === GROUP) {
      group = h("div", { class: "group" });
      this.list.append(group);
    }
    group.append(root);
  }

  /** Also of a group that was watched before: what was added to it is drawn only if it is looked at anew. */
  private watch(group: HTMLElement | null): void {
    if (!group) return;
    this.nearby.unobserve(group);
    this.nearby.observe(group);
  }

  private takeOut(item: Item): void {
    const group = item.root.parentElement;
    item.root.remove();
    if (!group || group.childElementCount) return;
    this.nearby.unobserve(group);
    group.remove();
  }

  /** Keeps what must stay in sight where it is, as messages around it get their true heights. */
  private resized(): void {
    if (this.held) this.held.scrollIntoView({ block: "center" });
    else this.follow();
  }

  private drawThose(entries: IntersectionObserverEntry[]): void {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      for (const root of target.children) {
        const item = this.items.get((root as HTMLElement).dataset.id ?? "");
        if (item) this.draw(item);
      }
    }
  }

  private draw(item: Item): void {
    if (item.drawn) return;
    item.drawn = true;
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
