// The calls the page makes. Addresses are relative to the page, so that it works behind a proxy's path.
import { eventsOf } from "./events";
import { forgetKey, key } from "./key";

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

/** What the server answered instead of what was asked. */
export class ApiFailure extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export class Client {
  /** `askKey` returns whether the user gave a key; `refused`: whether the server did not take the last one. */
  constructor(private readonly askKey: (refused: boolean) => Promise<boolean>) {}

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

  private async call(path: string, init: RequestInit): Promise<Response> {
    for (;;) {
      const response = await this.send(path, init);
      if (response.ok) return response;
      if (response.status !== 401) throw await failureOf(response);
      const refused = key() !== null;
      forgetKey();
      if (!(await this.askKey(refused))) throw new ApiFailure(401, "The server asks for a key.");
    }
  }

  private send(path: string, init: RequestInit): Promise<Response> {
    const secret = key();
    const headers = { ...(init.headers as Record<string, string>), ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
    return fetch(path, { ...init, headers, credentials: "same-origin" });
  }
}

function post(body: unknown, signal?: AbortSignal): RequestInit {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), ...(signal ? { signal } : {}) };
}

async function failureOf(response: Response): Promise<ApiFailure> {
  const wait = response.headers.get("Retry-After");
  const later = response.status === 429 && wait ? ` Try again in ${wait} seconds.` : "";
  try {
    const { error } = (await response.json()) as { error: { message: string } };
    return new ApiFailure(response.status, error.message + later);
  } catch {
    return new ApiFailure(response.status, `The server answered with status ${response.status}.${later}`);
  }
}
