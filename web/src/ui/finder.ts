import { type Found, search } from "../chats/search";
import type { ChatStore } from "../chats/store";
import type { Chat } from "../chats/types";
import { h } from "../dom";

/** Search over all chats: a field and a list to choose from, by arrows or by mouse. */
export function openFinder(store: ChatStore, open: (chat: Chat, message: string | null) => void): void {
  const input = h("input", {
    type: "text", placeholder: "Search all chats", "aria-label": "Search all chats", role: "combobox", "aria-expanded": true,
    "aria-controls": "found", "aria-autocomplete": "list", dir: "auto",
  });
  const list = h("ul", { id: "found", role: "listbox", "aria-label": "Found" });
  const state = h("p", { class: "found-none", role: "status" });
  const dialog = h("dialog", { class: "finder", "aria-label": "Search all chats" }, input, list, state);
  let asked = 0;
  let looking = Promise.resolve();
  let found: Found[] = [];
  let chosen = 0;

  const choose = (index: number): void => {
    chosen = Math.max(0, Math.min(index, found.length - 1));
    [...list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", list.children[chosen]?.id ?? "");
  };
  const take = (index: number): void => {
    const one = found[index];
    dialog.close();
    if (one) open(one.chat, one.message);
  };
  const look = async (): Promise<void> => {
    const mine = ++asked;
    const answer = await search(store, input.value, () => mine === asked);
    if (mine !== asked) return;
    found = answer;
    list.replaceChildren(...found.map((one, index) => row(one, index, () => take(index))));
    state.textContent = found.length ? "" : "Nothing found.";
    choose(0);
  };

  input.addEventListener("input", () => (looking = look()));
  input.addEventListener("keydown", (event) => {
    const steps: Record<string, () => void> = {
      ArrowDown: () => choose(chosen + 1),
      ArrowUp: () => choose(chosen - 1),
      // What is listed may be of fewer words than the field has by now.
      Enter: () => void looking.then(() => dialog.open && take(chosen)),
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    step();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  looking = look();
}

function row({ chat, message, before, match, after }: Found, index: number, take: () => void): HTMLElement {
  const snippet = h("span", { class: "snippet", dir: "auto" }, before, h("mark", {}, match), after);
  const title = message === null ? null : h("small", { dir: "auto" }, chat.title);
  return h("li", { role: "option", id: `found-${index}`, on: { click: take } }, snippet, title);
}
