import { Client, type Model } from "../api/client";
import { defaults, keepDefaults, keepModel, lastModel } from "../chats/preferences";
import type { ChatStore } from "../chats/store";
import { asMarkdown, exportAll, importAll } from "../chats/transfer";
import { type Attachment, type Chat, type Message, newId, type Vote } from "../chats/types";
import { chooseFiles, download } from "../dom";
import { Announcer } from "./announcer";
import { askComparison, askTitle, confirmRemoval, showHelp } from "./asking";
import { Composer } from "./composer";
import { openFinder } from "./finder";
import { Header } from "./header";
import { askKey } from "./key_dialog";
import { listenForKeys } from "./keyboard";
import { type House, Lane } from "./lane";
import { Panel } from "./panel";
import { Shell } from "./shell";
import { Sidebar } from "./sidebar";
import { Toasts } from "./toasts";
import { vote, voteBar } from "./vote";
import { welcome } from "./welcome";

/** Which chat is shown, and what happens at every choice. */
export class App implements House {
  readonly client = new Client(askKey);
  readonly announcer = new Announcer();
  readonly toasts = new Toasts();
  private models: Model[] | null = null;
  private feedback = false;
  /** Those that are shown or still being answered, by their chats. */
  private readonly lanes = new Map<string, Lane>();
  private shown: Lane[] = [];
  private readonly composer: Composer;
  private readonly header: Header;
  private readonly panel: Panel;
  private readonly sidebar: Sidebar;
  private readonly shell: Shell;

  constructor(readonly store: ChatStore) {
    this.composer = new Composer(
      {
        send: (text, attachments) => void this.send(text, attachments),
        stop: () => this.stop(),
        editLast: () => this.editLast(),
      },
      this.toasts,
    );
    this.header = new Header({
      menu: () => this.shell.toggleSidebar(),
      compare: () => void this.compare(),
      settings: () => this.setPanel(!this.shell.panelOpen),
      chooseModel: (name) => this.chooseModel(name),
      rename: () => void this.rename(),
      exportChat: () => this.exportChat(),
      remove: () => void this.remove(),
    });
    this.panel = new Panel({
      changed: () => this.settingsChanged(),
      keepAsDefaults: (settings) => {
        keepDefaults(settings);
        this.toasts.show("New chats will begin with these settings.");
      },
      close: () => this.setPanel(false),
    });
    this.sidebar = new Sidebar({
      open: (chat) => void this.open(chat.id),
      startNew: () => this.startNew(),
      search: () => this.search(),
      exportAll: () => void this.toasts.guard(() => this.exportAll()),
      importAll: () => void this.toasts.guard(() => this.importAll()),
      help: () => void showHelp(),
      close: () => this.shell.setSidebar(false),
    });
    this.shell = new Shell({
      sidebar: this.sidebar.root,
      header: this.header.root,
      composer: this.composer.root,
      panel: this.panel.root,
      announcer: this.announcer.root,
      toasts: this.toasts.root,
    });
    listenForKeys({
      search: () => this.search(),
      startNew: () => this.startNew(),
      stop: () => this.stop(),
      focus: () => this.composer.focus(),
      help: () => void showHelp(),
    });
    const page = document.body;
    page.addEventListener("dragover", (event) => event.preventDefault());
    page.addEventListener("drop", (event) => {
      event.preventDefault();
      void this.composer.take([...(event.dataTransfer?.files ?? [])]);
    });
  }

  async start(): Promise<void> {
    const last = location.hash.slice(1);
    if (!(last && (await this.open(last)))) this.startNew();
    await this.connect();
  }

  takesFeedback(): boolean {
    return this.feedback;
  }

  changed(lane: Lane): void {
    if (!lane.running && !this.shown.includes(lane)) this.lanes.delete(lane.chat.id);
    this.draw();
  }

  /** Asks the server what it has. */
  private async connect(): Promise<void> {
    try {
      this.models = await this.client.models();
      this.shell.calm();
      this.feedback = await this.client.takesFeedback();
    } catch (error) {
      const why = error instanceof TypeError ? "The server cannot be reached." : (error as Error).message;
      this.models ??= [];
      this.shell.warn(why, () => void this.connect());
    }
    for (const lane of this.shown) lane.chat.model ||= this.firstModel();
    for (const lane of this.shown) lane.transcript.refresh();
    this.draw();
  }

  private firstModel(): string {
    const last = lastModel();
    return this.models?.find((model) => model.id === last)?.id ?? this.models?.[0]?.id ?? "";
  }

  private startNew(): void {
    this.enter([this.laneOf(this.newChat(this.firstModel()), [])]);
    this.composer.focus();
  }

  private newChat(model: string): Chat {
    const now = Date.now();
    return { id: newId(), title: "", created: now, updated: now, model, settings: defaults(), chosen: {} };
  }

  /** Shows a chat, and its other half if it has one. Returns whether there is such a chat. */
  private async open(id: string, message: string | null = null): Promise<boolean> {
    const lane = await this.laneOfId(id);
    if (!lane) return false;
    const other = lane.chat.pair ? await this.laneOfId(lane.chat.pair.other) : null;
    this.enter(other ? (lane.chat.pair?.side === "left" ? [lane, other] : [other, lane]) : [lane]);
    if (message !== null) lane.transcript.reveal(message);
    else for (const one of this.shown) one.transcript.scrollToEnd();
    return true;
  }

  private async laneOfId(id: string): Promise<Lane | null> {
    const live = this.lanes.get(id);
    if (live) return live;
    const chat = await this.store.chat(id);
    return chat ? this.laneOf(chat, await this.store.messages(id)) : null;
  }

  private laneOf(chat: Chat, messages: readonly Message[]): Lane {
    const lane = new Lane(this, chat, messages);
    this.lanes.set(chat.id, lane);
    return lane;
  }

  private enter(lanes: Lane[]): void {
    for (const lane of this.shown) if (!lane.running && !lanes.includes(lane)) this.lanes.delete(lane.chat.id);
    this.shown = lanes;
    const [first] = lanes;
    if (first) this.panel.show(first.chat.settings);
    this.shell.leaveSidebar();
    this.draw();
  }

  private draw(): void {
    const [first, second] = this.shown;
    if (!first) return;
    const isNew = !first.lastQuestion;
    const between = isNew ? welcome((text) => this.composer.fill(text)) : second ? voteBar(first, second, (choice) => void this.decide(choice)) : null;
    this.shell.show(isNew ? [] : this.shown.map((lane) => lane.transcript.root), between, isNew);
    this.header.show(first.chat, second?.chat ?? null, this.models, isNew);
    this.composer.setRunning(this.shown.some((lane) => lane.running));
    const length = this.models?.find((model) => model.id === first.chat.model)?.max_model_len ?? null;
    this.composer.setContext(first.last, length);
    document.title = first.chat.title ? `${first.chat.title} · Landrace` : "Landrace";
    history.replaceState(null, "", isNew ? location.pathname : `#${first.chat.id}`);
    void this.list();
  }

  private async list(): Promise<void> {
    const running = new Set([...this.lanes.values()].filter((lane) => lane.running).map((lane) => lane.chat.id));
    this.sidebar.show(await this.store.chats(), this.shown[0]?.chat.id ?? "", running);
  }

  private async send(text: string, attachments: Attachment[]): Promise<void> {
    for (const lane of this.shown) lane.chat.model ||= this.firstModel();
    if (this.shown[0]) keepModel(this.shown[0].chat.model);
    await Promise.all(this.shown.map((lane) => lane.ask(text, attachments)));
  }

  private stop(): void {
    for (const lane of this.shown) lane.stop();
  }

  private editLast(): void {
    const [lane] = this.shown;
    if (lane?.lastQuestion) lane.transcript.edit(lane.lastQuestion);
  }

  private chooseModel(name: string): void {
    const [lane] = this.shown;
    if (!lane) return;
    lane.chat.model = name;
    keepModel(name);
    this.keepChats();
    this.draw();
  }

  private settingsChanged(): void {
    const [first, ...others] = this.shown;
    for (const lane of others) Object.assign(lane.chat.settings, first?.chat.settings);
    this.keepChats();
  }

  /** Of chats that were written in; others are not kept yet. */
  private keepChats(): void {
    const chats = this.shown.filter((lane) => lane.lastQuestion).map((lane) => lane.chat);
    void this.toasts.guard(() => this.store.put(chats, []));
  }

  private async compare(): Promise<void> {
    const wish = await askComparison(this.models ?? [], this.shown[0]?.chat.model ?? "");
    if (!wish) return;
    // Which is which must not be told by the order of the dialog's fields.
    const isSwapped = wish.blind && (crypto.getRandomValues(new Uint8Array(1))[0] ?? 0) % 2 === 1;
    const left = this.newChat(isSwapped ? wish.right : wish.left);
    const right = this.newChat(isSwapped ? wish.left : wish.right);
    left.pair = { other: right.id, side: "left", blind: wish.blind, vote: null };
    right.pair = { other: left.id, side: "right", blind: wish.blind, vote: null };
    this.enter([this.laneOf(left, []), this.laneOf(right, [])]);
    this.composer.focus();
  }

  private async decide(choice: Vote): Promise<void> {
    const [left, right] = this.shown;
    if (!left || !right) return;
    await this.toasts.guard(() => vote(left, right, choice, this.feedback));
    this.keepChats();
    for (const lane of this.shown) lane.transcript.refresh();
    this.draw();
  }

  private setPanel(open: boolean): void {
    this.shell.setPanel(open);
    this.header.setPanelOpen(open);
    if (open) this.panel.root.querySelector("textarea")?.focus();
  }

  private search(): void {
    openFinder(this.store, (chat, message) => void this.open(chat.id, message));
  }

  private async rename(): Promise<void> {
    const [lane] = this.shown;
    const title = lane ? await askTitle(lane.chat.title) : null;
    if (!lane || title === null) return;
    lane.chat.title = title;
    this.keepChats();
    this.draw();
  }

  private async remove(): Promise<void> {
    const [first] = this.shown;
    if (!first || !(await confirmRemoval(first.chat.title))) return;
    const gone = this.shown.map((lane) => lane.chat.id);
    for (const lane of this.shown) lane.discard();
    await this.toasts.guard(() => this.store.remove(gone));
    this.startNew();
  }

  private exportChat(): void {
    for (const lane of this.shown) {
      const name = lane.chat.title.replace(/[^\p{L}\p{N} _-]/gu, "").trim() || "chat";
      download(`${name}.md`, "text/markdown", asMarkdown(lane.tree));
    }
  }

  private async exportAll(): Promise<void> {
    download(`landrace-chats-${new Date().toISOString().slice(0, 10)}.json`, "application/json", await exportAll(this.store));
  }

  private async importAll(): Promise<void> {
    const [file] = await chooseFiles("application/json,.json", false);
    if (!file) return;
    const { taken, left } = await importAll(this.store, await file.text());
    const rest = left ? ` Left out ${left} already here.` : "";
    this.toasts.show(`Imported ${taken} ${taken === 1 ? "chat" : "chats"}.${rest}`);
    await this.list();
  }
}
