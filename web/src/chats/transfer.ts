// Chats as files: all of them as one JSON that can be read back, or one as Markdown for people.
import type { ChatStore } from "./store";
import type { Tree } from "./tree";
import { type Chat, type Message, NO_SETTINGS } from "./types";

const FORMAT = "landrace-chats";
const VERSION = 1;

interface Exported {
  format: typeof FORMAT;
  version: number;
  chats: (Chat & { messages: Message[] })[];
}

export async function exportAll(store: ChatStore): Promise<string> {
  const chats = await store.chats();
  const exported: Exported = { format: FORMAT, version: VERSION, chats: [] };
  for (const chat of chats) {
    const messages = (await store.messages(chat.id)).sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
    exported.chats.push({ ...chat, messages });
  }
  return JSON.stringify(exported, null, 1);
}

/** Adds the chats of a file; of one that is here already, the one that was written in last stays. Returns how many were
 * taken and left. Throws an Error that says what is wrong with the file, and takes nothing of it then. */
export async function importAll(store: ChatStore, text: string): Promise<{ taken: number; left: number }> {
  const chats: Chat[] = [];
  const messages: Message[] = [];
  const own = new Map((await store.chats()).map((chat) => [chat.id, chat.updated]));
  const read = parse(text);
  for (const { messages: inside, ...chat } of read) {
    if ((own.get(chat.id) ?? -1) >= chat.updated) continue;
    chats.push({ ...chat, settings: { ...NO_SETTINGS, ...chat.settings } });
    messages.push(...inside);
  }
  await store.put(chats, messages);
  return { taken: chats.length, left: read.length - chats.length };
}

function parse(text: string): Exported["chats"] {
  let file: Partial<Exported> | null;
  try {
    file = JSON.parse(text) as Partial<Exported> | null;
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.chats)) throw new Error("This file holds no chats of this page.");
  if (file.version !== VERSION) throw new Error(`This file has version ${file.version}; this page reads ${VERSION}.`);
  file.chats.forEach((chat, index) => {
    const wrong = faultOf(chat);
    if (wrong) throw new Error(`Chat ${index + 1} of this file ${wrong}.`);
  });
  return file.chats;
}

function faultOf(chat: Exported["chats"][number]): string | null {
  const texts = [chat?.id, chat?.title, chat?.model];
  if (!texts.every((value) => typeof value === "string")) return "lacks its id, title or model";
  if (typeof chat.updated !== "number" || typeof chat.created !== "number") return "lacks its dates";
  if (typeof chat.chosen !== "object" || chat.chosen === null) return "lacks its branches";
  if (!Array.isArray(chat.messages)) return "has no list of messages";
  const ids = new Set<string>();
  for (const message of chat.messages) {
    const roles = ["user", "assistant", "tool"];
    const whole = typeof message?.id === "string" && typeof message.text === "string" && roles.includes(message.role);
    if (!whole || message.chat !== chat.id || typeof message.created !== "number") return "has a message that is not whole";
    // Parents stand before their children, so no message is its own ancestor.
    if (message.parent !== null && !ids.has(message.parent)) return "has a message that follows none";
    ids.add(message.id);
  }
  return null;
}

/** The branch that is shown. */
export function asMarkdown(tree: Tree): string {
  const parts = [`# ${tree.chat.title}`];
  if (tree.chat.settings.system) parts.push(`> ${tree.chat.settings.system.replaceAll("\n", "\n> ")}`);
  for (const message of tree.path()) {
    const speaker = { user: "You", assistant: message.model ?? "Answer", tool: "Tool" }[message.role];
    parts.push(`## ${speaker}`);
    for (const { name, text } of message.attachments ?? []) parts.push(`**${name}**`, fenced(text));
    if (message.text) parts.push(message.text);
    for (const call of message.calls ?? []) parts.push(`**${call.name}**`, fenced(call.arguments));
  }
  return `${parts.join("\n\n")}\n`;
}

/** `text` between fences that are longer than any inside. */
export function fenced(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
