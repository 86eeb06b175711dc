import type { Rating, Vote } from "../chats/types";
import { button, h } from "../dom";
import type { Lane } from "./lane";
import { shortName } from "./models";

const CHOICES: [Vote, string][] = [
  ["left", "Left is better"],
  ["both", "Both are good"],
  ["neither", "Neither is good"],
  ["right", "Right is better"],
];
const RATINGS: Record<Vote, [Rating, Rating]> = {
  left: ["up", "down"],
  right: ["down", "up"],
  both: ["up", "up"],
  neither: ["down", "down"],
};

const DECIDED: Record<Vote, string> = {
  left: "You preferred the left one.",
  right: "You preferred the right one.",
  both: "You found both good.",
  neither: "You found neither good.",
};

/** Asks which of two answers is better; then says whose they were. */
export function voteBar(left: Lane, right: Lane, decide: (vote: Vote) => void): HTMLElement | null {
  const { pair } = left.chat;
  if (!pair) return null;
  if (pair.vote) {
    const said = DECIDED[pair.vote];
    const names = `Left: ${shortName(left.chat.model)}. Right: ${shortName(right.chat.model)}.`;
    return h("div", { class: "vote decided", role: "status" }, h("strong", {}, said), h("span", {}, names));
  }
  const complete = [left, right].every((lane) => !lane.running && lane.last && !lane.last.error);
  if (!complete) return null;
  return h("div", { class: "vote", role: "group", "aria-label": "Which answer is better?" }, ...CHOICES.map(([vote, text]) => button(text, () => decide(vote))));
}

/** Keeps the vote, and tells the server which answers were good. */
export async function vote(left: Lane, right: Lane, choice: Vote, tells: boolean): Promise<void> {
  for (const lane of [left, right]) if (lane.chat.pair) lane.chat.pair.vote = choice;
  if (!tells) return;
  const [ofLeft, ofRight] = RATINGS[choice];
  if (left.last) await left.rate(left.last, ofLeft);
  if (right.last) await right.rate(right.last, ofRight);
}
