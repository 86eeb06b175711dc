import { button, h, icon } from "../dom";
import { ICONS } from "../icons";

const NARROW = matchMedia("(max-width: 760px)");

interface Parts {
  sidebar: HTMLElement;
  header: HTMLElement;
  composer: HTMLElement;
  panel: HTMLElement;
  announcer: HTMLElement;
  toasts: HTMLElement;
}

/** The frame of the page: where its parts lie, and which of them are open. */
export class Shell {
  private readonly lanes = h("div", { class: "lanes" });
  private readonly between = h("div", { class: "between" });
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly shade = h("div", { class: "shade", hidden: true, on: { click: () => this.closeAll() } });
  private readonly root: HTMLElement;

  constructor(private readonly parts: Parts) {
    const main = h("main", { id: "main" }, parts.header, this.banner, this.lanes, this.between, parts.composer);
    this.root = h("div", { class: "page" }, parts.sidebar, this.shade, main, parts.panel);
    document.body.replaceChildren(this.root, parts.announcer, parts.toasts);
    this.setSidebar(!NARROW.matches);
    NARROW.addEventListener("change", () => this.setSidebar(!NARROW.matches));
  }

  show(lanes: readonly HTMLElement[], between: HTMLElement | null, isEmpty: boolean): void {
    if (lanes.length !== this.lanes.children.length || lanes.some((lane, at) => this.lanes.children[at] !== lane)) {
      this.lanes.replaceChildren(...lanes);
    }
    this.lanes.classList.toggle("pair", lanes.length > 1);
    this.between.replaceChildren(...(between ? [between] : []));
    this.root.classList.toggle("empty", isEmpty);
  }

  warn(text: string, retry: () => void): void {
    this.banner.hidden = false;
    this.banner.replaceChildren(icon(ICONS.warning), h("span", {}, text), button("Try again", retry, { class: "button small" }));
  }

  calm(): void {
    this.banner.hidden = true;
  }

  toggleSidebar(): void {
    this.setSidebar(this.parts.sidebar.hasAttribute("hidden"));
  }

  /** On a narrow screen the list lies over the conversation, so it goes once something was chosen. */
  leaveSidebar(): void {
    if (NARROW.matches) this.setSidebar(false);
  }

  setPanel(open: boolean): void {
    this.parts.panel.hidden = !open;
    this.shadeIfOver();
  }

  get panelOpen(): boolean {
    return !this.parts.panel.hidden;
  }

  setSidebar(open: boolean): void {
    this.parts.sidebar.hidden = !open;
    this.shadeIfOver();
  }

  private closeAll(): void {
    this.setSidebar(false);
    this.parts.panel.querySelector<HTMLElement>("header button")?.click();
  }

  private shadeIfOver(): void {
    this.shade.hidden = !(NARROW.matches && (!this.parts.sidebar.hidden || !this.parts.panel.hidden));
  }
}
