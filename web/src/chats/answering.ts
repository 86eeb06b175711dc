import type { CallPart, Chunk, Client } from "../api/client";
import { ApiFailure } from "../api/connection";
import type { Message, Settings, ToolCall } from "./types";
import { bodyOf } from "./prompt";

/** An answer that came in less was sent all at once, so that its speed is the network's. */
const LEAST_SECONDS = 0.02;

/** What a chunk brought of an answer. */
export interface Brought {
  text: string;
  thoughts: string;
  calls: boolean;
}

/** Writes one answer into `message` as it comes. What came stays, however it ends. */
export class Answering {
  private readonly control = new AbortController();
  private readonly begun = performance.now();
  private firstAt: number | null = null;
  private lastAt = 0;
  private thinkingSince: number | null = null;

  constructor(
    readonly message: Message,
    private readonly notify: (brought: Brought) => void,
  ) {}

  stop(): void {
    this.control.abort();
  }

  async run(client: Client, model: string, settings: Settings, path: readonly Message[]): Promise<void> {
    const { message } = this;
    message.stats = { promptTokens: null, answerTokens: null, firstToken: null, tokensPerSecond: null, cost: null };
    try {
      for await (const chunk of client.chat(bodyOf(model, settings, path), this.control.signal)) this.take(chunk);
    } catch (error) {
      message.finish = this.control.signal.aborted ? "stopped" : "error";
      if (message.finish === "error") message.error = readable(error);
    }
    message.finish ??= "stop";
    this.endThought();
  }

  private take(chunk: Chunk): void {
    const { message } = this;
    if (chunk.error) throw new ApiFailure(200, chunk.error.message);
    if (chunk.id) message.responseId = chunk.id;
    const cost = chunk.timings?.cost;
    if (typeof cost === "number" && message.stats) message.stats.cost = cost;
    if (chunk.usage) this.measure(chunk.usage.prompt_tokens, chunk.usage.completion_tokens);
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const text = choice.delta?.content ?? "";
    const thoughts = choice.delta?.reasoning ?? choice.delta?.reasoning_content ?? "";
    const calls = choice.delta?.tool_calls ?? [];
    if (text || thoughts || calls.length) {
      this.lastAt = performance.now();
      this.firstAt ??= this.lastAt;
      if (thoughts) this.thinkingSince ??= this.lastAt;
      if (text || calls.length) this.endThought();
      message.text += text;
      if (thoughts) message.thoughts = (message.thoughts ?? "") + thoughts;
      for (const call of calls) this.takeCall(call);
      this.notify({ text, thoughts, calls: calls.length > 0 });
    }
    if (choice.finish_reason) message.finish = choice.finish_reason;
  }

  private takeCall(part: CallPart): void {
    const calls: ToolCall[] = (this.message.calls ??= []);
    const call = (calls[part.index] ??= { id: "", name: "", arguments: "" });
    call.id ||= part.id ?? "";
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }

  private measure(promptTokens: number, answerTokens: number): void {
    const seconds = this.firstAt === null ? 0 : (this.lastAt - this.firstAt) / 1000;
    this.message.stats = {
      promptTokens,
      answerTokens,
      firstToken: this.firstAt === null ? null : (this.firstAt - this.begun) / 1000,
      tokensPerSecond: seconds > LEAST_SECONDS && answerTokens > 1 ? (answerTokens - 1) / seconds : null,
      cost: this.message.stats?.cost ?? null,
    };
  }

  private endThought(): void {
    if (this.thinkingSince === null || this.message.thoughtSeconds !== undefined) return;
    this.message.thoughtSeconds = (performance.now() - this.thinkingSince) / 1000;
  }
}

function readable(error: unknown): string {
  if (error instanceof ApiFailure) return error.message;
  // The browser tells no more of a connection than that it failed.
  if (error instanceof TypeError) return "The server cannot be reached, or the connection was lost.";
  return error instanceof Error ? error.message : String(error);
}
