import { h } from "../dom";

const IDEAS = [
  "Explain how a sourdough starter stays alive.",
  "Write a Python function that merges two sorted lists, with tests.",
  "Draft a polite reply to a customer whose parcel is late.",
];

/** What an empty chat shows. */
export function welcome(fill: (text: string) => void): HTMLElement {
  const ideas = IDEAS.map((idea) => h("button", { type: "button", class: "idea", on: { click: () => fill(idea) } }, idea));
  return h(
    "div",
    { class: "welcome" },
    h("h1", {}, "What would you like to know?"),
    h("p", {}, "The model runs on this server. Your chats are kept in this browser only."),
    h("div", { class: "ideas" }, ...ideas),
  );
}
