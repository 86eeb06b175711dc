import { button, h } from "../dom";
import { jsonBlock } from "../render/code";
import type { Message, ToolCall } from "../chats/types";

/** A call of a tool, with a field for what the tool says. The page runs no tools: whoever asks does. */
export function callView(message: Message, call: ToolCall, give: (text: string) => void): HTMLElement {
  const result = h("textarea", { rows: 3, "aria-label": `Result of ${call.name}`, placeholder: "What the tool returned, as text or JSON" });
  const send = button("Send result", () => result.value.trim() && give(result.value), { class: "button primary" });
  const fold = h("details", { class: "result" }, h("summary", {}, "Give its result"), result, send);
  return h(
    "section",
    { class: "call", "aria-label": `Call of ${call.name}` },
    h("h3", {}, h("span", {}, "Calls "), h("code", {}, call.name)),
    jsonBlock(call.arguments),
    message.finish === undefined ? null : fold,
  );
}
