import type { Model } from "../api/client";
import type { Chat } from "../chats/types";
import { button, h, icon, iconButton } from "../dom";
import { ICONS } from "../icons";
import { fill, shortName } from "./models";

interface Deeds {
  menu(): void;
  compare(): void;
  settings(): void;
  chooseModel(name: string): void;
  rename(): void;
  exportChat(): void;
  remove(): void;
}

/** Above the conversation: which model, and what can be done with this chat. */
export class Header {
  readonly root: HTMLElement;
  private readonly model = h("select", { class: "model", "aria-label": "Model" });
  private readonly names = h("span", { class: "pair-names" });
  private readonly more: HTMLDetailsElement;
  private readonly tune: HTMLButtonElement;

  constructor(deeds: Deeds) {
    this.model.addEventListener("change", () => deeds.chooseModel(this.model.value));
    const entry = (text: string, act: () => void): HTMLElement =>
      button(text, () => {
        this.more.open = false;
        act();
      });
    const label = h("summary", { class: "icon-button", "aria-label": "This chat", title: "This chat" }, icon(ICONS.more));
    const entries = [entry("Rename", deeds.rename), entry("Export as Markdown", deeds.exportChat), entry("Delete", deeds.remove)];
    this.more = h("details", { class: "menu" }, label, h("div", {}, ...entries));
    this.more.addEventListener("focusout", (event) => {
      if (!this.more.contains(event.relatedTarget as Node | null)) this.more.open = false;
    });
    this.more.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.more.open) return;
      event.stopPropagation();
      this.more.open = false;
      label.focus();
    });
    this.tune = iconButton(ICONS.tune, "Settings of this chat", deeds.settings, { "aria-expanded": false, "aria-controls": "settings" });
    this.root = h(
      "header",
      { class: "top" },
      iconButton(ICONS.menu, "List of chats", deeds.menu, { "aria-controls": "chats" }),
      this.model,
      this.names,
      h("span", { class: "spring" }),
      iconButton(ICONS.compare, "Compare two models", deeds.compare),
      this.tune,
      this.more,
    );
  }

  show(chat: Chat, other: Chat | null, models: readonly Model[] | null, isNew: boolean): void {
    const { pair } = chat;
    const isHidden = pair?.blind && !pair.vote;
    this.model.hidden = Boolean(pair);
    this.model.disabled = models === null;
    if (models === null) this.model.replaceChildren(h("option", {}, "Loading models …"));
    else fill(this.model, models, chat.model);
    this.names.hidden = !pair;
    const names = other ? `${shortName(chat.model)} and ${shortName(other.model)}` : "";
    this.names.textContent = isHidden ? "Two models, names hidden" : names;
    this.more.hidden = isNew;
  }

  setPanelOpen(open: boolean): void {
    this.tune.setAttribute("aria-expanded", String(open));
  }
}

