import { button, copyWith, h, iconButton } from "../dom";
import { ICONS } from "../icons";
import { jsonBlock } from "../render/code";
import type { Message } from "../chats/types";
import { attached, branches, type Deeds, type View } from "./view";

/** What the user wrote, as it was written; or a tool's result. */
export class QuestionView implements View {
  private readonly actions = h("div", { class: "actions" });
  private readonly body = h("div", { class: "bubble" });

  constructor(
    private readonly root: HTMLElement,
    private readonly message: Message,
    private readonly deeds: Deeds,
  ) {}

  draw(): void {
    const { message } = this;
    const text = message.role === "tool" ? jsonBlock(message.text) : h("div", { class: "as-written", dir: "auto" }, message.text);
    this.body.replaceChildren(...attached(message.attachments ?? []), ...(message.text ? [text] : []));
    this.root.replaceChildren(this.body, this.actions);
    this.refresh();
  }

  refresh(): void {
    const { message, deeds } = this;
    const copy = iconButton(ICONS.copy, "Copy message", () => void copyWith(copy, message.text));
    const edit = iconButton(ICONS.edit, "Edit message", () => this.beginEdit());
    const nav = branches(message, deeds);
    this.actions.replaceChildren(...[nav, copy, message.role === "user" && edit].filter((child) => child instanceof Node));
  }

  beginEdit(): void {
    const text = h("textarea", { class: "editing", dir: "auto", "aria-label": "Edit message", rows: 4 });
    text.value = this.message.text;
    const save = (): void => this.deeds.edit(this.message, text.value);
    const cancel = (): void => this.draw();
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    const choices = h("div", { class: "edit-choices" }, button("Cancel", cancel), button("Send again", save, { class: "button primary" }));
    this.body.replaceChildren(...attached(this.message.attachments ?? []), text, choices);
    this.actions.replaceChildren();
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }
}
