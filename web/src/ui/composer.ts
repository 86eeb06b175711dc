import { LONG_PASTE, MOST_FILES, readFile } from "../chats/attachments";
import type { Attachment, Message } from "../chats/types";
import { chooseFiles, h, icon, iconButton } from "../dom";
import { ICONS } from "../icons";
import type { Toasts } from "./toasts";

interface Deeds {
  send(text: string, attachments: Attachment[]): void;
  stop(): void;
  editLast(): void;
}

/** Where messages are written. */
export class Composer {
  readonly root: HTMLFormElement;
  private readonly text = h("textarea", { rows: 1, dir: "auto", "aria-label": "Message", placeholder: "Write a message" });
  private readonly files = h("ul", { class: "files", "aria-label": "Attachments" });
  private readonly act = h("button", { type: "submit", class: "send" });
  private readonly meter = h("div", { class: "meter", role: "meter", "aria-label": "Context used", "aria-valuemin": 0, hidden: true });
  private attachments: Attachment[] = [];
  private running = false;

  constructor(
    private readonly deeds: Deeds,
    private readonly toasts: Toasts,
  ) {
    const attach = iconButton(ICONS.attach, "Attach text files", () => void chooseFiles("", true).then((files) => this.take(files)));
    const tools = h("div", { class: "tools" }, attach, this.meter, this.act);
    this.root = h("form", { class: "composer", "aria-label": "New message" }, this.files, this.text, tools);
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) deeds.stop();
      else this.send();
    });
    this.text.addEventListener("keydown", (event) => this.key(event));
    this.text.addEventListener("input", () => this.resize());
    this.text.addEventListener("paste", (event) => this.paste(event));
    this.setRunning(false);
  }

  focus(): void {
    this.text.focus();
  }

  /** Puts a text there that the user may change before it is sent. */
  fill(text: string): void {
    this.text.value = text;
    this.resize();
    this.focus();
  }

  setRunning(running: boolean): void {
    this.running = running;
    const label = running ? "Stop" : "Send";
    this.act.setAttribute("aria-label", label);
    this.act.title = running ? "Stop (Esc)" : "Send (Enter)";
    this.act.classList.toggle("running", running);
    this.act.replaceChildren(icon(running ? ICONS.stop : ICONS.send));
  }

  /** How much of the context the chat has used up to `last`. */
  setContext(last: Message | undefined, length: number | null): void {
    const { promptTokens, answerTokens } = last?.stats ?? {};
    const used = (promptTokens ?? 0) + (answerTokens ?? 0);
    this.meter.hidden = !used;
    const share = length ? Math.min(1, used / length) : 0;
    this.meter.setAttribute("aria-valuenow", String(used));
    this.meter.setAttribute("aria-valuemax", String(length ?? used));
    const words = length ? `${used.toLocaleString()} of ${length.toLocaleString()} tokens` : `${used.toLocaleString()} tokens`;
    this.meter.setAttribute("aria-valuetext", words);
    const bar = h("span", { class: share > 0.8 ? "bar high" : "bar" }, h("i"));
    bar.style.setProperty("--share", String(share));
    this.meter.replaceChildren(...(length ? [bar] : []), h("span", {}, words));
  }

  /** Adds files, as far as they are text and not too many. */
  async take(files: readonly File[]): Promise<void> {
    for (const file of files) {
      await this.toasts.guard(async () => this.attach(await readFile(file)));
    }
    this.focus();
  }

  private attach(attachment: Attachment): void {
    if (this.attachments.length >= MOST_FILES) throw new Error(`A message takes ${MOST_FILES} files at most.`);
    this.attachments.push(attachment);
    this.showFiles();
  }

  private send(): void {
    const text = this.text.value.trim();
    if (!text && !this.attachments.length) return;
    const { attachments } = this;
    this.attachments = [];
    this.text.value = "";
    this.resize();
    this.showFiles();
    this.deeds.send(text, attachments);
  }

  private key(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.running) this.send();
    } else if (event.key === "ArrowUp" && !this.text.value) {
      event.preventDefault();
      this.deeds.editLast();
    }
  }

  private paste(event: ClipboardEvent): void {
    const files = [...(event.clipboardData?.files ?? [])];
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (!files.length && text.length <= LONG_PASTE) return;
    event.preventDefault();
    if (files.length) void this.take(files);
    else void this.take([new File([text], `pasted ${this.attachments.length + 1}.txt`)]);
  }

  private showFiles(): void {
    const items = this.attachments.map((attachment, index) => {
      const remove = iconButton(ICONS.close, `Remove ${attachment.name}`, () => {
        this.attachments.splice(index, 1);
        this.showFiles();
        this.focus();
      });
      return h("li", {}, icon(ICONS.file), h("span", {}, attachment.name), remove);
    });
    this.files.replaceChildren(...items);
    this.files.hidden = !items.length;
  }

  private resize(): void {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
  }
}
