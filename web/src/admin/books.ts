import { h, type Child } from "../dom";
import { count, moment, money, seconds, shortened } from "./format";
import { bar, card, pill, Table } from "./parts";
import type { FeedbackRow, KeyRow, UsageRow } from "./types";

const GROUPS = ["key", "model", "adapter", "team", "day", "kind"];
const DAYS: [number, string][] = [
  [1, "1 day"],
  [7, "7 days"],
  [30, "30 days"],
  [365, "a year"],
];

/** What the ledger tells: cost, keys, feedback. */
export class Books {
  readonly sections: HTMLElement[];
  private readonly group = h("select", { "aria-label": "Usage by" }, ...GROUPS.map((name) => h("option", { value: name }, `by ${name}`)));
  private readonly span = h("select", { "aria-label": "Time" }, ...DAYS.map(([days, name]) => h("option", { value: days, selected: days === 30 }, name)));
  private readonly usage = new Table(
    "Usage and cost",
    [
      { title: "group" },
      { title: "requests", isNumber: true },
      { title: "prompt", isNumber: true },
      { title: "cached", isNumber: true },
      { title: "answers", isNumber: true },
      { title: "machine", isNumber: true },
      { title: "cost", isNumber: true },
    ],
    "Nothing was used in this time.",
  );
  private readonly keys = new Table(
    "Keys and limits",
    [{ title: "key" }, { title: "may" }, { title: "requests/min", isNumber: true }, { title: "tokens/min", isNumber: true }, { title: "tokens this month", isNumber: true }, { title: "spent this month" }],
    "There are no keys: landrace keys create makes one.",
  );
  private readonly feedback = new Table("Feedback", [{ title: "when" }, { title: "rating" }, { title: "from" }, { title: "said" }], "Nobody has rated an answer yet.");

  constructor(changed: () => void) {
    for (const control of [this.group, this.span]) control.addEventListener("change", changed);
    const choices = h("span", { class: "choices" }, this.group, this.span);
    this.sections = [
      card("Usage and cost", "half", [this.usage.root], [choices]),
      card("Keys and limits", "half", [this.keys.root]),
      card("Feedback", "half", [this.feedback.root]),
    ];
  }

  get by(): string {
    return this.group.value;
  }

  get days(): number {
    return Number(this.span.value);
  }

  show(usage: UsageRow[], keys: KeyRow[], feedback: FeedbackRow[]): void {
    this.usage.show(usage.map((row) => usageCells(row)));
    this.keys.show([...keys].sort((one, other) => Number(other.is_valid) - Number(one.is_valid)).map(keyCells));
    this.feedback.show(feedback.map(feedbackCells));
  }
}

function usageCells(row: UsageRow): Child[] {
  const [value] = Object.values(row.group);
  const name = row.key_name ?? (value ? shortened(value) : "none");
  const counts = [row.requests, row.prompt_tokens, row.cached_prompt_tokens, row.completion_tokens].map(count);
  return [h("span", { title: value ?? null }, name), ...counts, seconds(row.machine_seconds), money(row.cost)];
}

function keyCells(row: KeyRow): Child[] {
  const state = row.is_valid ? (row.is_admin ? pill("admin", "calm") : null) : pill(row.revoked ? "revoked" : "expired", "bad");
  const may = [...(row.routes ?? ["every route"]), ...(row.models ?? []).map(shortened)].join(", ");
  const limit = row.money_per_month;
  const spent = limit === null ? money(row.spent_this_month) : `${money(row.spent_this_month)} of ${money(limit)}`;
  const share = limit === null ? null : bar([[row.spent_this_month, row.spent_this_month >= limit ? "bad" : "first"]], limit, `Spent ${spent}`);
  return [
    h("span", { class: "key-name", title: row.id }, row.name, row.team ? h("small", {}, row.team) : null, state),
    may,
    row.requests_per_minute === null ? "no limit" : count(row.requests_per_minute),
    row.tokens_per_minute === null ? "no limit" : count(row.tokens_per_minute),
    count(row.tokens_this_month),
    h("span", { class: "spent" }, h("span", {}, spent), share),
  ];
}

function feedbackCells(row: FeedbackRow): Child[] {
  const rating = row.rating === "up" ? pill("good", "good") : row.rating === "down" ? pill("bad", "bad") : pill("no rating", "calm");
  const kinds = [row.has_correction ? "a correction" : null, row.has_comment ? "a comment" : null].filter(Boolean).join(" and ");
  return [h("span", { class: "nowrap" }, moment(row.created)), rating, row.team ?? row.key_id ?? "no key", h("span", { dir: "auto" }, row.comment ?? row.correction ?? kinds)];
}
