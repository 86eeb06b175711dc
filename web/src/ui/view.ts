import { h, iconButton, type Child } from "../dom";
import { ICONS } from "../icons";
import type { Brought } from "../chats/answering";
import type { Attachment, Message, Rating } from "../chats/types";

/** What views of messages can have done, and ask. */
export interface Deeds {
  edit(message: Message, text: string): void;
  regenerate(message: Message): void;
  choose(message: Message): void;
  rate(message: Message, rating: Rating): void;
  correct(message: Message): void;
  giveResult(message: Message, callId: string, text: string): void;
  siblings(message: Message): readonly Message[];
  /** Whether the server takes ratings. */
  canRate(): boolean;
  /** The model's name as it may be shown; null: hidden. */
  nameOf(message: Message): string | null;
  drawn(message: Message, finished: string): void;
}

/** A message on the page. */
export interface View {
  /** Draws all there is of the message; called once, when it comes near the screen. */
  draw(): void;
  /** Draws what depends on other things than the message: branches, ratings, names. */
  refresh(): void;
  brought?(brought: Brought): void;
  ended?(): void;
  beginEdit?(): void;
}

/** Back and forth between the branches at a message. */
export function branches(message: Message, deeds: Deeds): Child {
  const siblings = deeds.siblings(message);
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(message);
  const step = (by: number, path: string, label: string): HTMLElement => {
    const target = siblings[at + by];
    return iconButton(path, label, () => target && deeds.choose(target), { disabled: !target });
  };
  return h(
    "span",
    { class: "branches", role: "group", "aria-label": "Branches" },
    step(-1, ICONS.left, "Earlier branch"),
    h("span", {}, `${at + 1} / ${siblings.length}`),
    step(1, ICONS.right, "Later branch"),
  );
}

/** Names of attached files, which open to their texts. */
export function attached(files: readonly Attachment[]): HTMLElement[] {
  return files.map(({ name, text }) => {
    const body = h("pre", { tabindex: 0, role: "region", "aria-label": name, dir: "auto" });
    const details = h("details", { class: "attached" }, h("summary", {}, `${name} · ${text.length.toLocaleString()} characters`), body);
    details.addEventListener("toggle", () => (body.textContent = details.open ? text : ""));
    return details;
  });
}
