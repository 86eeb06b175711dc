// The calls that the chat page makes.
import { ApiFailure, Connection } from "./connection";
import { eventsOf } from "./events";

export interface Model {
  id: string;
  /** Of an adapter, its base. */
  parent: string | null;
  /** Tokens of the longest sequence; null: not told. */
  max_model_len: number | null;
}

/** A tool call or, where a server streams its parts, what comes next of it. */
export interface CallPart {
  index: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

export interface Delta {
  content?: string | null;
  reasoning?: string;
  reasoning_content?: string;
  tool_calls?: CallPart[];
}

export interface Chunk {
  id?: string;
  choices?: { delta?: Delta; finish_reason?: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
  timings?: { cost?: number | null } | null;
  error?: { message: string };
}

export interface Feedback {
  response_id: string;
  rating: "up" | "down";
  correction?: string;
  /** The conversation up to the answer, where the user shares it. */
  messages?: unknown[];
  answer?: string;
  model?: string;
}

export class Client extends Connection {
  async models(): Promise<Model[]> {
    const response = await this.call("v1/models", {});
    return ((await response.json()) as { data: Model[] }).data;
  }

  /** The chunks of an answer. Throws ApiFailure, and the browser's error when the connection is lost. */
  async *chat(body: unknown, signal: AbortSignal): AsyncGenerator<Chunk> {
    const response = await this.call("v1/chat/completions", post(body, signal));
    if (!response.body) throw new ApiFailure(response.status, "The server sent no answer.");
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      yield JSON.parse(data) as Chunk;
    }
    throw new ApiFailure(0, "The connection was lost before the answer was whole.");
  }

  /** Whether the server takes ratings. */
  async takesFeedback(): Promise<boolean> {
    const response = await this.send("v1/feedback", { method: "OPTIONS" });
    return response.status !== 404;
  }

  async rate(feedback: Feedback): Promise<void> {
    await this.call("v1/feedback", post(feedback));
  }
}

function post(body: unknown, signal?: AbortSignal): RequestInit {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), ...(signal ? { signal } : {}) };
}
