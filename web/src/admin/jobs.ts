import { h } from "../dom";
import { Chart } from "./chart";
import { count, moment, shortened } from "./format";
import { bar, card, pill } from "./parts";
import type { BatchRow, Jobs, TuningRow } from "./types";

const TONES: Record<string, "good" | "bad" | "calm"> = { succeeded: "good", completed: "good", failed: "bad", expired: "bad" };
const loss = (value: number): string => value.toFixed(3);

/** Fine-tuning jobs with their loss, and batches with how far they are. */
export class JobList {
  private readonly list = h("div", { class: "jobs", role: "region", "aria-label": "List of jobs", tabindex: 0 });
  readonly section = card("Jobs", "half", [this.list]);
  private readonly charts = new Map<string, Chart>();

  show(jobs: Jobs): void {
    const entries = [...jobs.tuning.map((row) => ({ at: row.created_at, draw: () => this.tuning(row) })), ...jobs.batches.map((row) => ({ at: row.created_at, draw: () => batch(row) }))];
    entries.sort((one, other) => other.at - one.at);
    this.list.replaceChildren(...(entries.length ? entries.map((entry) => entry.draw()) : [h("p", { class: "none" }, "There are no batches and no fine-tuning jobs.")]));
  }

  private tuning(row: TuningRow): HTMLElement {
    const step = row.losses.at(-1)?.step ?? 0;
    const far = row.total_steps ? `step ${count(step)} of ${count(row.total_steps)}` : "not started";
    return h(
      "article",
      { class: "job", "aria-label": row.id },
      head(`Tuning ${shortened(row.fine_tuned_model ?? row.model)}`, row),
      h("p", { class: "soft" }, [far, row.owner, moment(row.created_at)].filter(Boolean).join(" · ")),
      row.error ? h("p", { class: "wrong" }, row.error) : null,
      row.losses.length > 1 ? this.curve(row) : null,
    );
  }

  private curve(row: TuningRow): HTMLElement {
    const hasValidation = row.losses.some((one) => one.valid_loss !== null);
    const name = `${row.id} ${hasValidation}`;
    const lines = [{ name: "loss", tone: "first" as const }, ...(hasValidation ? [{ name: "validation", tone: "second" as const }] : [])];
    const chart = this.charts.get(name) ?? new Chart({ title: "Loss", lines, ends: ["step 1", `step ${count(row.total_steps)}`], format: loss, joined: true, at: (x) => `step ${x}` });
    this.charts.set(name, chart);
    const points = row.losses.map((one) => ({ x: one.step, values: hasValidation ? [one.train_loss, one.valid_loss] : [one.train_loss] }));
    chart.show(points, 1, row.total_steps ?? points.length);
    return chart.root;
  }
}

function batch(row: BatchRow): HTMLElement {
  const words = `${count(row.completed)} answered, ${count(row.failed)} failed, of ${count(row.total)}`;
  return h(
    "article",
    { class: "job", "aria-label": row.id },
    head(`Batch of ${row.endpoint}`, row),
    h("p", { class: "soft" }, [words, row.owner, moment(row.created_at)].filter(Boolean).join(" · ")),
    bar([[row.completed, "first"], [row.failed, "bad"]], row.total, words),
  );
}

function head(title: string, row: { status: string }): HTMLElement {
  return h("header", {}, h("h3", {}, title), pill(row.status.replace("_", " "), TONES[row.status] ?? "calm"));
}
