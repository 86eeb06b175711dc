import type { Chat, Message } from "./types";

const NAME = "landrace";
const VERSION = 1;

/** One step for each version of the database, so that a page of any age finds its chats again. */
const UPGRADES: ((database: IDBDatabase) => void)[] = [
  (database) => {
    database.createObjectStore("chats", { keyPath: "id" });
    database.createObjectStore("messages", { keyPath: "id" }).createIndex("chat", "chat");
  },
];

/** The chats in this browser. Every method rejects with the browser's own error when the disk is full or closed. */
export class ChatStore {
  private constructor(private readonly database: IDBDatabase) {}

  static async open(): Promise<ChatStore> {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = ({ oldVersion }) => {
      for (const upgrade of UPGRADES.slice(oldVersion)) upgrade(request.result);
    };
    const database = await result(request);
    // A newer page in another tab may upgrade.
    database.onversionchange = () => database.close();
    return new ChatStore(database);
  }

  /** The one that was written in last comes first. */
  async chats(): Promise<Chat[]> {
    const chats = await result<Chat[]>(this.database.transaction("chats").objectStore("chats").getAll());
    return chats.sort((a, b) => b.updated - a.updated);
  }

  chat(id: string): Promise<Chat | undefined> {
    return result<Chat | undefined>(this.database.transaction("chats").objectStore("chats").get(id));
  }

  messages(chat: string): Promise<Message[]> {
    return result<Message[]>(this.database.transaction("messages").objectStore("messages").index("chat").getAll(chat));
  }

  /** Every message, one by one; `visit` returns false to end it. */
  async eachMessage(visit: (message: Message) => boolean): Promise<void> {
    const request = this.database.transaction("messages").objectStore("messages").openCursor();
    await new Promise<void>((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor && visit(cursor.value as Message)) cursor.continue();
        else resolve();
      };
    });
  }

  /** All of it or nothing is kept. */
  async put(chats: readonly Chat[], messages: readonly Message[]): Promise<void> {
    const transaction = this.database.transaction(["chats", "messages"], "readwrite");
    for (const chat of chats) transaction.objectStore("chats").put(chat);
    for (const message of messages) transaction.objectStore("messages").put(message);
    await done(transaction);
  }

  async remove(chats: readonly string[]): Promise<void> {
    const transaction = this.database.transaction(["chats", "messages"], "readwrite");
    const messages = transaction.objectStore("messages");
    for (const id of chats) {
      transaction.objectStore("chats").delete(id);
      for (const key of await result(messages.index("chat").getAllKeys(id))) messages.delete(key);
    }
    await done(transaction);
  }
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}
