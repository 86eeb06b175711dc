import { h } from "../dom";
import { Chart } from "./chart";
import { count, rate, seconds } from "./format";
import { card, tally } from "./parts";
import type { Overview, Percentiles } from "./types";

const WINDOW = 300;
const TIME = { ends: ["5 min ago", "now"] as [string, string], at: (x: number) => (x > -1 ? "now" : `${Math.round(-x)} s ago`) };

/** What changes from second to second. */
export class Live {
  readonly sections: HTMLElement[];
  private readonly generated = new Chart({ ...TIME, title: "Answers, tokens/s", lines: [{ name: "answers", tone: "first" }], format: rate });
  private readonly prompt = new Chart({ ...TIME, title: "Prompts, tokens/s", lines: [{ name: "prompts", tone: "first" }], format: rate });
  private readonly queue = new Chart({
    ...TIME,
    title: "Requests",
    lines: [
      { name: "running", tone: "first" },
      { name: "waiting", tone: "second" },
    ],
    format: count,
  });
  private readonly first = new Chart({
    ...TIME,
    title: "First token",
    lines: [
      { name: "p50", tone: "first" },
      { name: "p90", tone: "second" },
    ],
    format: seconds,
  });
  private readonly latency = h("div");
  private readonly ends = h("div");
  private readonly errors = h("div");

  constructor() {
    const charts = [this.generated, this.prompt, this.queue, this.first].map((chart) => h("section", { class: "card quarter" }, chart.root));
    this.sections = [
      ...charts,
      card("Latency, last 5 minutes", "third", [this.latency]),
      card("How answers ended", "third", [this.ends]),
      card("Errors", "third", [this.errors]),
    ];
  }

  show(overview: Overview): void {
    const history = overview.history;
    this.generated.show(history.map((one) => ({ x: -one.seconds_ago, values: [one.generated] })), -WINDOW, 0);
    this.prompt.show(history.map((one) => ({ x: -one.seconds_ago, values: [one.prompt] })), -WINDOW, 0);
    this.queue.show(history.map((one) => ({ x: -one.seconds_ago, values: [one.running, one.waiting] })), -WINDOW, 0);
    this.first.show(overview.first_tokens.map((one) => ({ x: -one.seconds_ago, values: [one.p50, one.p90] })), -WINDOW, 0);
    this.latency.replaceChildren(latencyTable(overview));
    this.ends.replaceChildren(tally(overview.answers, "No answer yet."));
    this.errors.replaceChildren(tally(overview.errors, "No call was refused or failed."));
  }
}

function latencyTable({ latency }: Overview): HTMLElement {
  const row = (name: string, values: Percentiles): HTMLElement =>
    h("tr", {}, h("th", { scope: "row" }, name), ...[values.p50, values.p90, values.p99].map((value) => h("td", { class: "number" }, seconds(value))));
  const heads = ["", "p50", "p90", "p99"].map((name, at) => (at ? h("th", { scope: "col", class: "number" }, name) : h("td")));
  return h(
    "table",
    { class: "latency" },
    h("caption", {}, `${count(latency.answers)} answers`),
    h("thead", {}, h("tr", {}, ...heads)),
    h("tbody", {}, row("First token", latency.first_token), row("Each token", latency.token), row("Whole answer", latency.whole)),
  );
}
