import { ApiFailure } from "../api/connection";
import { forgetKey } from "../api/key";
import { button, download, h, icon } from "../dom";
import { ICONS } from "../icons";
import { askKey } from "../ui/key_dialog";
import { themeButton } from "../ui/theme";
import { Toasts } from "../ui/toasts";
import { Books } from "./books";
import { AdminClient } from "./client";
import { count, duration, rate, seconds } from "./format";
import { JobList } from "./jobs";
import { Live } from "./live";
import { Models } from "./models";
import { pill } from "./parts";
import type { Overview } from "./types";

const PAUSE = 2000;
/** Sums over the ledger are asked for less often: every so many rounds. */
const SLOW_ROUNDS = 5;

/** Asks the server again and again, as long as somebody looks, and shows what it tells. */
export class Dashboard {
  private readonly client = new AdminClient(askKey);
  private readonly toasts = new Toasts();
  private readonly live = new Live();
  private readonly models = new Models();
  private readonly books = new Books(() => void this.toasts.guard(() => this.showBooks()));
  private readonly jobs = new JobList();
  private readonly state = h("span", { role: "status" });
  private readonly about = h("span", { class: "beside" });
  private readonly tiles = h("dl", { class: "tiles" });
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly grid: HTMLElement;
  private said = "";

  constructor() {
    const report = h("button", { type: "button", class: "button small", on: { click: () => void this.toasts.guard(() => this.report()) } }, icon(ICONS.download), "Bug report");
    report.title = "Versions, machine, options, these numbers and the last warnings. No prompts, no keys.";
    const top = h(
      "header",
      { class: "bar-top" },
      h("h1", {}, h("a", { href: "./" }, "Landrace"), h("span", {}, "Operation")),
      this.state,
      this.about,
      h("span", { class: "spring" }),
      report,
      themeButton(),
    );
    this.grid = h("div", { class: "cards", hidden: true }, this.tiles, ...this.live.sections, this.models.section, ...this.books.sections, this.jobs.section);
    document.body.replaceChildren(top, h("main", {}, this.banner, this.grid), this.toasts.root);
  }

  /** Never ends. */
  async start(): Promise<void> {
    for (let round = 0; ; round += 1) {
      await visible();
      try {
        await this.refresh(round % SLOW_ROUNDS === 0);
        this.banner.hidden = true;
        this.grid.classList.remove("stale");
      } catch (error) {
        this.grid.classList.add("stale");
        if (error instanceof ApiFailure && (error.status === 401 || error.status === 403)) await this.wait(error.message);
        else this.warn(error instanceof TypeError ? "The server cannot be reached. Trying again." : (error as Error).message);
        round = -1;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }

  private async refresh(withBooks: boolean): Promise<void> {
    const overview = await this.client.overview();
    this.showState(overview);
    this.live.show(overview);
    this.models.show(overview);
    for (const section of this.books.sections) section.hidden = !overview.has_ledger;
    this.jobs.section.hidden = !overview.has_jobs;
    if (withBooks && overview.has_ledger) await this.showBooks();
    if (withBooks && overview.has_jobs) this.jobs.show(await this.client.jobs());
    this.grid.hidden = false;
  }

  private async showBooks(): Promise<void> {
    const asked = [this.client.usage(this.books.by, this.books.days), this.client.keys(), this.client.feedback()] as const;
    this.books.show(...(await Promise.all(asked)));
  }

  private showState(overview: Overview): void {
    const troubles = overview.models.filter((model) => model.trouble);
    const ledger = overview.usage.status !== "ok" ? "the ledger is not written" : null;
    const words = troubles.length ? `${count(troubles.length)} model${troubles.length > 1 ? "s" : ""} in trouble` : (ledger ?? "all well");
    // A live region says what it is given: only what is new.
    if (words !== this.said) this.state.replaceChildren(pill(words, words === "all well" ? "good" : "bad"));
    this.said = words;
    this.state.title = overview.usage.reason ?? "";
    this.about.textContent = `version ${overview.version} · up ${duration(overview.uptime_seconds)}`;
    const sum = (read: (model: Overview["models"][number]) => number | null): number => overview.models.reduce((total, model) => total + (read(model) ?? 0), 0);
    const unwritten = overview.usage.waiting + overview.usage.spilled;
    const shown: [string, string][] = [
      ["answer tokens/s, last minute", rate(overview.tokens_per_second.generated)],
      ["prompt tokens/s, last minute", rate(overview.tokens_per_second.prompt)],
      ["running", count(sum((model) => model.running))],
      ["waiting", count(sum((model) => model.waiting))],
      ["first token, p50", seconds(overview.latency.first_token.p50)],
      ["errors since the start", count(Object.values(overview.errors).reduce((total, value) => total + value, 0))],
      ...(overview.has_ledger ? [["usage not yet in the ledger", count(unwritten)] as [string, string]] : []),
    ];
    this.tiles.replaceChildren(...shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  private warn(text: string): void {
    if (this.banner.hidden || this.banner.textContent !== text) this.banner.replaceChildren(icon(ICONS.warning), h("span", {}, text));
    this.banner.hidden = false;
  }

  /** Until the user gives another key: the server is not asked in vain meanwhile. */
  private wait(text: string): Promise<void> {
    this.warn(text);
    return new Promise((resolve) => {
      const again = button("Use another key", () => {
        forgetKey();
        void askKey(false).then((given) => {
          if (given) resolve();
        });
      }, { class: "button small" });
      this.banner.append(again);
    });
  }

  private async report(): Promise<void> {
    download("landrace-report.zip", "application/zip", await this.client.bundle());
  }
}

/** Resolves once the page can be seen. */
function visible(): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true }));
}
