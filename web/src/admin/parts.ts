// What several sections of the page are made of.
import { h, type Child } from "../dom";

/** A part of the page with a heading; `more` stands beside it. */
export function card(title: string, wide: string, content: Child[], more: Child[] = []): HTMLElement {
  return h("section", { class: `card ${wide}`, "aria-label": title }, h("header", {}, h("h2", {}, title), ...more), ...content);
}

export function pill(text: string, tone: "good" | "bad" | "calm"): HTMLElement {
  return h("span", { class: `pill ${tone}` }, text);
}

/** A bar of shares of a whole; the words say what the lengths show. */
export function bar(shares: [number, string][], whole: number, words: string): HTMLElement {
  const parts = shares.map(([value, tone]) => {
    const part = h("i", { class: tone });
    part.style.inlineSize = `${whole > 0 ? Math.min(100, (100 * value) / whole) : 0}%`;
    return part;
  });
  return h("div", { class: "bar", role: "img", "aria-label": words }, ...parts);
}

/** Names and how often each was counted, as bars. */
export function tally(counts: Record<string, number>, none: string): HTMLElement {
  const entries = Object.entries(counts).sort(([, one], [, other]) => other - one);
  if (!entries.length) return h("p", { class: "none" }, none);
  const most = Math.max(...entries.map(([, value]) => value));
  const rows = entries.map(([name, value]) =>
    h("li", {}, h("span", { class: "mono" }, name), bar([[value, "first"]], most, ""), h("b", {}, value.toLocaleString())),
  );
  for (const row of rows) row.querySelector(".bar")?.setAttribute("aria-hidden", "true");
  return h("ul", { class: "tally", tabindex: 0 }, ...rows);
}

export interface Column {
  title: string;
  isNumber?: boolean;
}

/** A table that scrolls sideways where it lacks room. */
export class Table {
  readonly root: HTMLElement;
  private readonly body = h("tbody");

  constructor(
    label: string,
    private readonly columns: Column[],
    private readonly none: string,
  ) {
    const heads = columns.map((column) => h("th", { scope: "col", class: column.isNumber ? "number" : null }, column.title));
    this.root = h(
      "div",
      { class: "table", role: "region", "aria-label": `${label}, table`, tabindex: 0 },
      h("table", {}, h("thead", {}, h("tr", {}, ...heads)), this.body),
    );
  }

  show(rows: Child[][]): void {
    const lines = rows.map((cells) =>
      h("tr", {}, ...cells.map((cell, at) => h(at ? "td" : "th", { scope: at ? null : "row", class: this.columns[at]?.isNumber ? "number" : null }, cell))),
    );
    this.body.replaceChildren(...(lines.length ? lines : [h("tr", {}, h("td", { class: "none", colspan: this.columns.length }, this.none))]));
  }
}
