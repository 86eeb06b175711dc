import { h } from "../dom";
import type { Message } from "../chats/types";

const ENDINGS: Record<string, string> = {
  length: "cut off at the token limit",
  stopped: "stopped",
};

/** Speed, times, tokens and cost of an answer, as far as they are known. */
export function statsLine(message: Message): HTMLElement {
  const { stats, finish } = message;
  const parts: string[] = [];
  const ending = finish === undefined ? undefined : ENDINGS[finish];
  if (ending) parts.push(ending);
  if (stats?.tokensPerSecond) parts.push(`${stats.tokensPerSecond.toFixed(stats.tokensPerSecond < 10 ? 1 : 0)} tokens/s`);
  if (stats?.firstToken != null) parts.push(`first after ${stats.firstToken.toFixed(2)} s`);
  if (stats?.answerTokens != null) parts.push(`${stats.answerTokens.toLocaleString()} tokens`);
  if (stats?.cost != null) parts.push(`cost ${Number(stats.cost.toPrecision(3))}`);
  return h("span", { class: "stats" }, parts.join(" · "));
}
