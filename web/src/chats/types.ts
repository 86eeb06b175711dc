// What the page keeps of conversations. Exported files hold these objects as they are.

export interface Attachment {
  name: string;
  text: string;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON, as the model wrote it. */
  arguments: string;
}

/** What an answer took. Times are seconds; null: not told. */
export interface Stats {
  promptTokens: number | null;
  answerTokens: number | null;
  firstToken: number | null;
  tokensPerSecond: number | null;
  cost: number | null;
}

export type Rating = "up" | "down";

export interface Message {
  id: string;
  chat: string;
  /** The message before it; null: the chat begins here. Several with one parent are branches. */
  parent: string | null;
  created: number;
  role: "user" | "assistant" | "tool";
  text: string;
  attachments?: Attachment[];
  /** Of a tool's result: the call it answers. */
  callId?: string;
  // Of answers only:
  model?: string;
  thoughts?: string;
  thoughtSeconds?: number;
  calls?: ToolCall[];
  /** The server's id of the answer, by which it is rated. */
  responseId?: string;
  /** Why it ended: "stop", "length", "tool_calls"; "stopped" by the user; "error". Absent while it is written. */
  finish?: string;
  error?: string;
  stats?: Stats;
  rating?: Rating;
  correction?: string;
}

/** How answers are asked for. null: as the server does by itself. */
export interface Settings {
  system: string;
  temperature: number | null;
  top_p: number | null;
  top_k: number | null;
  min_p: number | null;
  repetition_penalty: number | null;
  presence_penalty: number | null;
  frequency_penalty: number | null;
  seed: number | null;
  max_tokens: number | null;
  thinking: "default" | "on" | "off";
  thinking_budget: number | null;
  /** One a line. */
  stop: string;
  /** JSON schema that answers keep to; empty: none. */
  schema: string;
  /** JSON list of functions the model may call; empty: none. */
  tools: string;
  /** Whether ratings bring the conversation with them, for the server to keep and learn from. */
  shared: boolean;
}

export const NO_SETTINGS: Settings = {
  system: "",
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  presence_penalty: null,
  frequency_penalty: null,
  seed: null,
  max_tokens: null,
  thinking: "default",
  thinking_budget: null,
  stop: "",
  schema: "",
  tools: "",
  shared: false,
};

export type Vote = "left" | "right" | "both" | "neither";

/** Two chats that are shown side by side: the same questions to two models. */
export interface Pair {
  other: string;
  side: "left" | "right";
  /** Names are hidden until there is a vote. */
  blind: boolean;
  vote: Vote | null;
}

export interface Chat {
  id: string;
  title: string;
  created: number;
  updated: number;
  model: string;
  settings: Settings;
  /** Which branch is shown: parent's id ("" at the beginning) to the child's. Where nothing is chosen, the newest. */
  chosen: Record<string, string>;
  pair?: Pair;
}

export function newId(): string {
  // crypto.randomUUID is missing where the page comes over plain HTTP from another machine.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
