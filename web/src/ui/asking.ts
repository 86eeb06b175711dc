// The dialogs of the chat page.
import type { Model } from "../api/client";
import type { Message } from "../chats/types";
import { h } from "../dom";
import { ask, checkbox, field } from "./dialog";
import { modelSelect } from "./models";

/** What the answer should have been; null: nothing was said. */
export async function askCorrection(message: Message): Promise<string | null> {
  const text = h("textarea", { rows: 10, dir: "auto" });
  text.value = message.correction ?? message.text;
  const hint = "Change it into the answer that you would have liked. Tuning can learn from it.";
  const given = await ask("What would have been better?", "Send correction", field("Better answer", text, hint));
  return given && text.value.trim() && text.value !== message.text ? text.value : null;
}

export interface Comparison {
  left: string;
  right: string;
  blind: boolean;
}

export async function askComparison(models: readonly Model[], current: string): Promise<Comparison | null> {
  const left = modelSelect(models, current);
  const right = modelSelect(models, models.find((model) => model.id !== current)?.id ?? current);
  const blind = checkbox("Blind: hide which is which until I have voted", true);
  const explained = "Both get the same questions, and answer side by side.";
  const given = await ask(
    "Compare two models",
    "Start",
    h("p", {}, explained),
    field("One", left),
    field("The other", right),
    blind.root,
  );
  return given ? { left: left.value, right: right.value, blind: blind.input.checked } : null;
}

export async function askTitle(title: string): Promise<string | null> {
  const input = h("input", { type: "text", required: true, maxlength: 200, value: title, dir: "auto" });
  const given = await ask("Rename chat", "Rename", field("Title", input));
  return given ? input.value.trim() || null : null;
}

export function confirmRemoval(title: string): Promise<boolean> {
  return ask("Delete this chat?", "Delete", h("p", {}, `“${title}” will be gone for good.`));
}

const SHORTCUTS: [string, string][] = [
  ["Enter", "send"],
  ["Shift + Enter", "new line"],
  ["Esc", "stop the answer"],
  ["/", "write a message"],
  ["↑", "in an empty message: edit the last one"],
  ["Ctrl + K", "search all chats"],
  ["Ctrl + Shift + O", "new chat"],
  ["?", "this list"],
];

export async function showHelp(): Promise<void> {
  const rows = SHORTCUTS.map(([keys, does]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, keys)), h("td", {}, does)));
  const licences = document.querySelector<HTMLMetaElement>('meta[name="licences"]')?.content ?? "";
  await ask(
    "Keyboard and privacy",
    null,
    h("table", { class: "shortcuts" }, h("tbody", {}, ...rows)),
    h(
      "p",
      {},
      "Chats are kept in this browser only: export them to keep them elsewhere. The page talks to this server and to nobody else.",
    ),
    h("p", {}, h("a", { href: licences, target: "_blank", rel: "noopener" }, "Licences of the libraries inside")),
  );
}
