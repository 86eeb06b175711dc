import type { Model } from "../api/client";
import { h } from "../dom";

/** A choice among the server's models; adapters stand below their base. */
export function modelSelect(models: readonly Model[], chosen: string): HTMLSelectElement {
  const select = h("select", {});
  fill(select, models, chosen);
  return select;
}

export function fill(select: HTMLSelectElement, models: readonly Model[], chosen: string): void {
  const parents = new Set(models.map((model) => model.parent).filter((parent) => parent !== null));
  const option = (model: Model): HTMLElement =>
    h("option", { value: model.id, selected: model.id === chosen }, shortName(model.id));
  const groups = models
    .filter((model) => model.parent === null)
    .map((base) => {
      const adapters = models.filter((model) => model.parent === base.id);
      return parents.has(base.id)
        ? h("optgroup", { label: `${shortName(base.id)} and its adapters` }, option(base), ...adapters.map(option))
        : option(base);
    });
  const known = models.some((model) => model.id === chosen);
  const missing = !known && chosen ? [h("option", { value: chosen, selected: true }, `${shortName(chosen)} (not served)`)] : [];
  select.replaceChildren(...missing, ...groups);
  if (!select.options.length) select.append(h("option", { value: "" }, "No models"));
}

/** Of a folder's path, its last part. */
export function shortName(id: string): string {
  return id.split("/").filter(Boolean).at(-1) ?? id;
}
