import type { ChatStore } from "./store";
import type { Chat } from "./types";

export interface Found {
  chat: Chat;
  /** The message that has the words; null: the title has. */
  message: string | null;
  before: string;
  match: string;
  after: string;
}

const MOST = 50;
const AROUND = 60;

/** Where the words occur, whatever their case: titles first, then messages. `wanted` says whether anybody still waits. */
export async function search(store: ChatStore, words: string, wanted: () => boolean): Promise<Found[]> {
  const needle = words.trim().toLowerCase();
  const chats = new Map((await store.chats()).map((chat) => [chat.id, chat]));
  if (!needle) return [...chats.values()].slice(0, MOST).map((chat) => entry(chat, null, chat.title, 0, 0));
  const found: Found[] = [];
  for (const chat of chats.values()) {
    const at = chat.title.toLowerCase().indexOf(needle);
    if (at >= 0) found.push(entry(chat, null, chat.title, at, needle.length));
  }
  await store.eachMessage((message) => {
    const chat = chats.get(message.chat);
    const at = message.text.toLowerCase().indexOf(needle);
    if (chat && at >= 0) found.push(entry(chat, message.id, message.text, at, needle.length));
    return wanted() && found.length < MOST;
  });
  return found.slice(0, MOST);
}

function entry(chat: Chat, message: string | null, text: string, at: number, length: number): Found {
  const start = Math.max(0, at - AROUND);
  return {
    chat,
    message,
    before: (start > 0 ? "… " : "") + text.slice(start, at),
    match: text.slice(at, at + length),
    after: text.slice(at + length, at + length + AROUND * 2),
  };
}
