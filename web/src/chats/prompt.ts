// A conversation as the body of a call.
import { fenced } from "./transfer";
import type { Message, Settings } from "./types";

const NUMBERS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "seed",
  "max_tokens",
  "thinking_budget",
] as const;

/** The body of POST /v1/chat/completions. Throws an Error for settings that are not JSON where they must be. */
export function bodyOf(model: string, settings: Settings, path: readonly Message[]): Record<string, unknown> {
  const body: Record<string, unknown> = {
    model,
    messages: messagesOf(settings, path),
    stream: true,
    stream_options: { include_usage: true },
    include_timings: true,
  };
  for (const name of NUMBERS) if (settings[name] !== null) body[name] = settings[name];
  if (settings.thinking !== "default") body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  const stops = settings.stop.split("\n").filter(Boolean);
  if (stops.length) body.stop = stops;
  if (settings.tools.trim()) body.tools = jsonOf(settings.tools, "The tools");
  if (settings.schema.trim()) {
    const schema = jsonOf(settings.schema, "The schema");
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  return body;
}

/** The conversation as the server gets it. Answers that never came are left out. */
export function messagesOf(settings: Settings, path: readonly Message[]): Record<string, unknown>[] {
  const said = path.filter((message) => message.text || message.calls?.length || message.role !== "assistant");
  return [...(settings.system ? [{ role: "system", content: settings.system }] : []), ...said.map(asSent)];
}

export function jsonOf(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} in the settings of this chat are not JSON: ${(error as Error).message}`);
  }
}

function asSent(message: Message): Record<string, unknown> {
  if (message.role === "tool") return { role: "tool", content: message.text, tool_call_id: message.callId };
  if (message.role === "assistant") {
    const calls = message.calls?.map(({ id, name, arguments: said }) => ({
      id,
      type: "function",
      function: { name, arguments: said },
    }));
    return { role: "assistant", content: message.text, ...(calls?.length ? { tool_calls: calls } : {}) };
  }
  const files = (message.attachments ?? []).map(({ name, text }) => `${name}:\n${fenced(text)}`);
  return { role: "user", content: [...files, message.text].filter(Boolean).join("\n\n") };
}
