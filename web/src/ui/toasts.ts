import { h, iconButton } from "../dom";
import { ICONS } from "../icons";

const SECONDS = 8;

/** Short messages about what the user just did; they go by themselves. */
export class Toasts {
  readonly root = h("div", { class: "toasts", role: "status" });

  show(text: string, kind: "note" | "error" = "note"): void {
    const toast = h("div", { class: `toast ${kind}` }, h("span", {}, text));
    toast.append(iconButton(ICONS.close, "Dismiss", () => toast.remove()));
    this.root.append(toast);
    setTimeout(() => toast.remove(), SECONDS * 1000);
  }

  /** Runs `work`; what goes wrong is shown. */
  async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.show(error instanceof Error ? error.message : String(error), "error");
    }
  }
}
