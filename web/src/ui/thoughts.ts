import { h } from "../dom";
import type { Message } from "../chats/types";

/** What a model thought before it answered: folded, with the time it took. */
export class Thoughts {
  readonly root: HTMLDetailsElement;
  private readonly title = h("summary");
  private readonly text = h("div", { class: "as-written", dir: "auto" });
  private readonly since = performance.now();

  constructor(private readonly message: Message) {
    this.root = h("details", { class: "thoughts" }, this.title, this.text);
    this.text.append(message.thoughts ?? "");
    this.refresh();
  }

  append(text: string): void {
    this.text.append(text);
    this.refresh();
  }

  /** The time so far, or the time it took. */
  refresh(): void {
    const { finish, thoughtSeconds } = this.message;
    const runs = finish === undefined && thoughtSeconds === undefined;
    const seconds = thoughtSeconds ?? (performance.now() - this.since) / 1000;
    const title = runs ? `Thinking … ${Math.floor(seconds)} s` : `Thought for ${shown(seconds)}`;
    if (this.title.textContent !== title) this.title.textContent = title;
    this.root.classList.toggle("running", runs);
  }
}

function shown(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
