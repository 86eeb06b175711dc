import { h, type Child } from "../dom";
import { bytes, count, shortened } from "./format";
import { bar, card, pill } from "./parts";
import type { CacheGroup, ModelState, Overview } from "./types";

const TONES: Record<string, "good" | "bad" | "calm"> = { ready: "good", failed: "bad", stopped: "bad", restarting: "bad" };
const KINDS: Record<string, string> = { all: "Cache", window: "Cache, windows", states: "Cache, states" };

/** The models, what they take and hold. */
export class Models {
  private readonly list = h("div", { class: "models" });
  private readonly total = h("span", { class: "beside" });
  readonly section = card("Models and memory", "whole", [this.list], [this.total]);

  show({ models, memory_bytes }: Overview): void {
    const kept = models.reduce((sum, model) => sum + model.memory_bytes, 0);
    this.total.replaceChildren(`${bytes(kept)} of ${bytes(memory_bytes)} kept for models`);
    this.list.replaceChildren(...models.map((model) => this.model(model, memory_bytes)));
  }

  private model(model: ModelState, memory: number): HTMLElement {
    const facts = [
      model.running === null ? null : `${count(model.running)} running`,
      model.waiting === null ? null : `${count(model.waiting)} waiting`,
      model.restarts ? `restarted ${model.restarts === 1 ? "once" : `${count(model.restarts)} times`}` : null,
    ].filter(Boolean);
    const taken = model.resident_bytes === null ? "not in memory" : `${bytes(model.resident_bytes)} resident, ${bytes(model.memory_bytes)} kept`;
    const adapters = model.adapters.map((adapter) =>
      h("li", { class: adapter.problem ? "bad" : null, title: adapter.problem }, adapter.id, adapter.problem ? h("small", {}, adapter.problem) : null),
    );
    return h(
      "article",
      { class: "model-card", "aria-label": model.id },
      h("header", {}, h("h3", { title: model.id }, shortened(model.id)), pill(model.state, TONES[model.state] ?? "calm")),
      model.trouble ? h("p", { class: "wrong" }, model.trouble) : null,
      facts.length ? h("p", { class: "soft" }, facts.join(" · ")) : null,
      labelled("Memory", taken, bar([[model.resident_bytes ?? 0, "first"]], memory, `Memory: ${taken}`)),
      ...model.cache.map(cacheBar),
      adapters.length ? h("ul", { class: "adapters", "aria-label": "Adapters" }, ...adapters) : null,
    );
  }
}

function cacheBar(group: CacheGroup): HTMLElement {
  const empty = group.free - group.reusable;
  const words = `${count(group.held)} held · ${count(group.reusable)} reusable · ${count(empty)} empty`;
  const name = KINDS[group.kind] ?? group.kind;
  const legend = h("span", {}, swatch("first", `${count(group.held)} held`), swatch("second", `${count(group.reusable)} reusable`), `${count(empty)} empty`);
  return labelled(name, legend, bar([[group.held, "first"], [group.reusable, "second"]], group.size, `${name}: ${words}`));
}

function swatch(tone: "first" | "second", words: string): HTMLElement {
  return h("span", { class: `value ${tone}` }, h("span", {}, words));
}

function labelled(name: string, words: Child, drawn: HTMLElement): HTMLElement {
  return h("div", { class: "labelled" }, h("span", {}, name), h("span", { class: "soft" }, words), drawn);
}
