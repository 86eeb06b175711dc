import type { Brought } from "../chats/answering";
import type { Message } from "../chats/types";
import { button, copyWith, h, icon, iconButton } from "../dom";
import { ICONS } from "../icons";
import { StreamedMarkdown } from "../render/streamed";
import { callView } from "./calls";
import { shortName } from "./models";
import { statsLine } from "./stats";
import { Thoughts } from "./thoughts";
import { branches, type Deeds, type View } from "./view";

/** An answer: thoughts, text, calls of tools, what went wrong, and what it took. */
export class AnswerView implements View {
  private readonly name = h("div", { class: "speaker" });
  private readonly above = h("div", { class: "above" });
  private readonly text = h("div", { class: "prose" });
  private readonly below = h("div", { class: "below" });
  private readonly footer = h("div", { class: "footer" });
  private readonly markdown: StreamedMarkdown;
  private thoughts: Thoughts | null = null;

  constructor(
    private readonly root: HTMLElement,
    private readonly message: Message,
    private readonly deeds: Deeds,
  ) {
    this.markdown = new StreamedMarkdown(this.text, (finished) => deeds.drawn(message, finished));
  }

  draw(): void {
    const { message } = this;
    this.root.replaceChildren(this.name, this.above, this.text, this.below, this.footer);
    if (message.thoughts) this.showThoughts();
    this.markdown.append(message.text);
    if (message.finish === undefined) this.below.replaceChildren(waiting());
    else this.ended();
    this.refresh();
  }

  brought({ text, thoughts, calls }: Brought): void {
    if (thoughts && this.thoughts) this.thoughts.append(thoughts);
    else if (thoughts) this.showThoughts();
    if (text || calls) this.thoughts?.refresh();
    if (text) {
      this.below.replaceChildren();
      this.markdown.append(text);
    }
    if (calls) this.drawCalls();
  }

  ended(): void {
    this.markdown.finish();
    this.thoughts?.refresh();
    this.drawCalls();
    this.refresh();
  }

  refresh(): void {
    const { message, deeds } = this;
    const name = deeds.nameOf(message);
    this.name.textContent = name === null ? "Hidden until you vote" : shortName(name);
    this.name.title = name ?? "";
    this.name.classList.toggle("hidden-name", name === null);
    const running = message.finish === undefined;
    this.root.setAttribute("aria-busy", String(running));
    if (running) return this.footer.replaceChildren();
    const copy = iconButton(ICONS.copy, "Copy answer", () => void copyWith(copy, message.text));
    const again = iconButton(ICONS.again, "Answer again", () => deeds.regenerate(message));
    const actions = [branches(message, deeds), copy, again, ...this.ratings()].filter((child) => child instanceof Node);
    // Speed would tell which model it is.
    this.footer.replaceChildren(h("div", { class: "actions" }, ...actions), ...(name === null ? [] : [statsLine(message)]));
  }

  private ratings(): HTMLElement[] {
    const { message, deeds } = this;
    if (!deeds.canRate() || !message.responseId || deeds.nameOf(message) === null) return [];
    const rated = message.rating;
    const up = iconButton(ICONS.up, "Good answer", () => deeds.rate(message, "up"), { "aria-pressed": String(rated === "up") });
    const down = iconButton(ICONS.down, "Bad answer", () => deeds.rate(message, "down"), { "aria-pressed": String(rated === "down") });
    const label = message.correction === undefined ? "Correct it" : "Corrected";
    const correct = button(label, () => deeds.correct(message), { class: "button small" });
    return rated === "down" ? [up, down, correct] : [up, down];
  }

  private showThoughts(): void {
    this.thoughts = new Thoughts(this.message);
    this.above.replaceChildren(this.thoughts.root);
  }

  private drawCalls(): void {
    const { message, deeds } = this;
    const calls = (message.calls ?? []).map((call) => callView(message, call, (text) => deeds.giveResult(message, call.id, text)));
    this.below.replaceChildren(...calls, ...(message.error === undefined ? [] : [this.failure(message.error)]));
  }

  private failure(error: string): HTMLElement {
    const retry = button("Try again", () => this.deeds.regenerate(this.message), { class: "button small" });
    return h("p", { class: "failure", role: "alert" }, icon(ICONS.warning), h("span", { dir: "auto" }, error), retry);
  }
}

function waiting(): HTMLElement {
  return h("span", { class: "waiting", "aria-label": "The model reads" }, h("i"), h("i"), h("i"));
}
