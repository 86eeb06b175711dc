import type { Chat } from "../chats/types";
import { button, h, icon, iconButton } from "../dom";
import { ICONS } from "../icons";
import { themeButton } from "./theme";

interface Deeds {
  open(chat: Chat): void;
  startNew(): void;
  search(): void;
  exportAll(): void;
  importAll(): void;
  help(): void;
  close(): void;
}

const DAY = 86_400_000;

/** The list of chats, and what concerns all of them. */
export class Sidebar {
  readonly root: HTMLElement;
  private readonly list = h("div", { class: "chats" });

  constructor(private readonly deeds: Deeds) {
    const logo = h("span", { class: "logo" }, "Landrace");
    const shut = iconButton(ICONS.close, "Close list of chats", deeds.close, { class: "icon-button only-narrow" });
    this.root = h(
      "nav",
      { class: "sidebar", "aria-label": "Chats", id: "chats" },
      h("header", {}, logo, shut),
      h(
        "div",
        { class: "sidebar-top" },
        wide(ICONS.plus, "New chat", "Ctrl Shift O", deeds.startNew),
        wide(ICONS.search, "Search", "Ctrl K", deeds.search),
      ),
      this.list,
      h(
        "footer",
        {},
        button("Export", deeds.exportAll, { class: "button small", title: "Export all chats as one file" }),
        button("Import", deeds.importAll, { class: "button small", title: "Import chats from a file" }),
        h("span", { class: "spring" }),
        themeButton(),
        iconButton(ICONS.help, "Keyboard and privacy", deeds.help),
      ),
    );
  }

  /** `running`: chats whose answer is being written. */
  show(chats: readonly Chat[], current: string, running: ReadonlySet<string>): void {
    const shown = chats.filter((chat) => chat.pair?.side !== "right");
    const groups = new Map<string, Chat[]>();
    for (const chat of shown) {
      const age = ageOf(chat.updated);
      groups.set(age, [...(groups.get(age) ?? []), chat]);
    }
    const sections = [...groups].map(([age, inside]) =>
      h("section", { "aria-label": age }, h("h2", {}, age), h("ul", {}, ...inside.map((chat) => this.entry(chat, current, running)))),
    );
    this.list.replaceChildren(...(sections.length ? sections : [h("p", { class: "no-chats" }, "Your chats will be listed here. They stay in this browser.")]));
  }

  private entry(chat: Chat, current: string, running: ReadonlySet<string>): HTMLElement {
    const here = chat.id === current || chat.pair?.other === current;
    const runs = running.has(chat.id) || (chat.pair !== undefined && running.has(chat.pair.other));
    const open = h(
      "button",
      { type: "button", "aria-current": here ? "page" : null, on: { click: () => this.deeds.open(chat) } },
      chat.pair ? icon(ICONS.compare) : null,
      h("span", { dir: "auto" }, chat.title || "Untitled"),
      runs ? h("i", { class: "runs", role: "img", "aria-label": "being answered" }) : null,
    );
    return h("li", {}, open);
  }
}

function wide(path: string, label: string, keys: string, click: () => void): HTMLElement {
  return h("button", { type: "button", class: "wide", on: { click } }, icon(path), h("span", {}, label), h("kbd", { "aria-hidden": true }, keys));
}

function ageOf(time: number): string {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 7 * DAY ? "This week" : "Earlier";
}
