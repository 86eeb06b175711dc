import type { Client, Feedback } from "../api/client";
import { Answering } from "../chats/answering";
import { messagesOf } from "../chats/prompt";
import type { ChatStore } from "../chats/store";
import { Tree } from "../chats/tree";
import { type Attachment, type Chat, type Message, newId, type Rating } from "../chats/types";
import type { Announcer } from "./announcer";
import { askCorrection } from "./asking";
import type { Toasts } from "./toasts";
import { Transcript } from "./transcript";
import type { Deeds } from "./view";

/** What is written is kept this often while it comes, so that a closed tab loses little. */
const KEEP_EVERY = 1500;

/** What lanes share. */
export interface House {
  client: Client;
  store: ChatStore;
  announcer: Announcer;
  toasts: Toasts;
  takesFeedback(): boolean;
  /** An answer began or ended, or the chat was written in. */
  changed(lane: Lane): void;
}

/** One chat on the page: its messages, their views, and the answer that is being written. */
export class Lane {
  readonly tree: Tree;
  readonly transcript: Transcript;
  private answering: Answering | null = null;
  private kept = 0;
  private gone = false;

  constructor(
    private readonly house: House,
    readonly chat: Chat,
    messages: Iterable<Message>,
  ) {
    this.tree = new Tree(chat, messages);
    this.transcript = new Transcript(this.deeds());
    this.transcript.show(this.tree.path());
  }

  get running(): boolean {
    return this.answering !== null;
  }

  /** The last answer that is shown. */
  get last(): Message | undefined {
    return this.tree.path().findLast((message) => message.role === "assistant");
  }

  get lastQuestion(): Message | undefined {
    return this.tree.path().findLast((message) => message.role === "user");
  }

  ask(text: string, attachments: Attachment[]): Promise<void> {
    const after = this.tree.path().at(-1);
    return this.follow(after?.id ?? null, { role: "user", text, ...(attachments.length ? { attachments } : {}) });
  }

  stop(): void {
    this.answering?.stop();
  }

  /** The chat is deleted: nothing of it is kept any more. */
  discard(): void {
    this.gone = true;
    this.stop();
  }

  private async follow(parent: string | null, what: Pick<Message, "role" | "text"> & Partial<Message>): Promise<void> {
    this.stop();
    const message: Message = { id: newId(), chat: this.chat.id, parent, created: Date.now(), ...what };
    this.add(message);
    if (!this.chat.title) this.chat.title = titleOf(message);
    await this.answer(message);
  }

  /** Writes an answer to `question`, as a new branch if there is one already. */
  private async answer(question: Message): Promise<void> {
    this.stop();
    const { chat, house } = this;
    const path = this.tree.pathTo(question);
    const message: Message = { id: newId(), chat: chat.id, parent: question.id, created: Date.now(), role: "assistant", text: "", model: chat.model };
    // Below a question that was asked in the same millisecond.
    message.created = Math.max(message.created, question.created + 1);
    const answering = new Answering(message, (brought) => {
      this.transcript.brought(message, brought);
      this.keepNowAndThen(message);
    });
    this.answering = answering;
    chat.updated = Date.now();
    this.add(message);
    house.announcer.say("Answering.");
    house.changed(this);
    await this.keep(question, message);
    await answering.run(house.client, chat.model, chat.settings, path);
    if (this.answering === answering) this.answering = null;
    this.transcript.ended(message);
    await this.keep(message);
    house.announcer.say(message.error ? `The answer failed: ${message.error}` : "The answer is complete.");
    house.changed(this);
  }

  private add(message: Message): void {
    this.tree.add(message);
    this.tree.choose(message);
    this.transcript.show(this.tree.path());
  }

  private keepNowAndThen(message: Message): void {
    if (performance.now() - this.kept < KEEP_EVERY) return;
    this.kept = performance.now();
    void this.keep(message);
  }

  private async keep(...messages: Message[]): Promise<void> {
    if (this.gone) return;
    await this.house.toasts.guard(() => this.house.store.put([this.chat], messages));
  }

  private deeds(): Deeds {
    const { house } = this;
    return {
      edit: (message, text) => {
        const { attachments } = message;
        if (text.trim()) void this.follow(message.parent, { role: "user", text, ...(attachments ? { attachments } : {}) });
      },
      regenerate: (message) => {
        const question = message.parent === null ? undefined : this.tree.get(message.parent);
        if (question) void this.answer(question);
      },
      choose: (message) => {
        this.tree.choose(message);
        this.transcript.show(this.tree.path());
        void this.keep();
        house.changed(this);
      },
      rate: (message, rating) => void house.toasts.guard(() => this.rate(message, rating)),
      correct: (message) => void house.toasts.guard(() => this.correct(message)),
      giveResult: (message, callId, text) => this.giveResult(message, callId, text),
      siblings: (message) => this.tree.siblings(message),
      canRate: () => house.takesFeedback(),
      nameOf: (message) => (this.chat.pair?.blind && !this.chat.pair.vote ? null : (message.model ?? "")),
      drawn: (message, finished) => {
        if (finished.trim() && message.finish === undefined) house.announcer.read(finished);
      },
    };
  }

  /** Tells the server, then keeps it. */
  async rate(message: Message, rating: Rating, correction?: string): Promise<void> {
    if (!message.responseId) return;
    const feedback: Feedback = { response_id: message.responseId, rating };
    if (correction !== undefined) feedback.correction = correction;
    const { settings, model } = this.chat;
    if (settings.shared) {
      const messages = messagesOf(settings, this.tree.pathTo(message).slice(0, -1));
      Object.assign(feedback, { messages, answer: message.text, model: message.model ?? model });
    }
    await this.house.client.rate(feedback);
    message.rating = rating;
    if (correction !== undefined) message.correction = correction;
    await this.keep(message);
    this.transcript.refresh();
  }

  private async correct(message: Message): Promise<void> {
    const correction = await askCorrection(message);
    if (correction === null) return;
    await this.rate(message, "down", correction);
    this.house.toasts.show("Thank you. The correction is kept with the answer.");
  }

  /** The results of all calls of an answer, one by one; with the last one the model goes on. */
  private giveResult(message: Message, callId: string, text: string): void {
    const results = new Map(this.tree.path().filter((other) => other.callId).map((other) => [other.callId, other]));
    const open = (message.calls ?? []).filter((call) => call.id !== callId && !results.has(call.id));
    const before = this.tree.path().at(-1) ?? message;
    if (!open.length) {
      void this.follow(before.id, { role: "tool", text, callId });
      return;
    }
    const result: Message = { id: newId(), chat: this.chat.id, parent: before.id, created: Date.now(), role: "tool", text, callId };
    this.add(result);
    void this.keep(result);
  }
}

function titleOf(message: Message): string {
  const text = (message.text || message.attachments?.[0]?.name || "").trim().replace(/\s+/g, " ");
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
