import type { Chat, Message } from "./types";

/** The messages of a chat and the branch of them that is shown. */
export class Tree {
  private readonly byId = new Map<string, Message>();
  private readonly children = new Map<string, Message[]>();

  constructor(
    readonly chat: Chat,
    messages: Iterable<Message>,
  ) {
    for (const message of [...messages].sort((a, b) => a.created - b.created)) this.add(message);
  }

  add(message: Message): void {
    this.byId.set(message.id, message);
    const key = message.parent ?? "";
    const siblings = this.children.get(key);
    if (siblings) siblings.push(message);
    else this.children.set(key, [message]);
  }

  get(id: string): Message | undefined {
    return this.byId.get(id);
  }

  /** Those that follow the same message, itself among them, the oldest first. */
  siblings(message: Message): readonly Message[] {
    return this.children.get(message.parent ?? "") ?? [message];
  }

  /** From now on `message` is on the branch that is shown. */
  choose(message: Message): void {
    this.chat.chosen[message.parent ?? ""] = message.id;
  }

  /** The branch that is shown, from its first message on. */
  path(): Message[] {
    const path: Message[] = [];
    for (let next = this.childOf(""); next; next = this.childOf(next.id)) path.push(next);
    return path;
  }

  /** The branch up to `message`, and with it. */
  pathTo(message: Message): Message[] {
    const path: Message[] = [];
    for (let at: Message | undefined = message; at; at = at.parent === null ? undefined : this.byId.get(at.parent)) {
      path.push(at);
    }
    return path.reverse();
  }

  private childOf(parent: string): Message | undefined {
    const among = this.children.get(parent);
    return among?.find((message) => message.id === this.chat.chosen[parent]) ?? among?.at(-1);
  }
}
