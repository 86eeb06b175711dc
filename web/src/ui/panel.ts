import { jsonOf } from "../chats/prompt";
import { NO_SETTINGS, type Settings } from "../chats/types";
import { button, h, iconButton } from "../dom";
import { ICONS } from "../icons";
import { checkbox, field } from "./dialog";

type Name<Kind> = { [Key in keyof Settings]: Settings[Key] extends Kind ? Key : never }[keyof Settings];

interface NumberField {
  name: Exclude<Name<number | null>, Name<string>>;
  label: string;
  min: number;
  max?: number;
  step: number | "any";
  hint?: string;
}

const SAMPLING: NumberField[] = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: "any", hint: "0 takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: "any" },
  { name: "top_k", label: "Top k", min: 0, step: 1 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: "any" },
  { name: "repetition_penalty", label: "Repetition", min: 0, step: "any", hint: "penalty; 1 is none" },
  { name: "presence_penalty", label: "Presence", min: -2, max: 2, step: "any", hint: "penalty; 0 is none" },
  { name: "frequency_penalty", label: "Frequency", min: -2, max: 2, step: "any", hint: "penalty; 0 is none" },
  { name: "seed", label: "Seed", min: 0, step: 1, hint: "repeats an answer" },
  { name: "max_tokens", label: "Most tokens", min: 1, step: 1, hint: "of an answer" },
];
const BUDGET: NumberField = { name: "thinking_budget", label: "Budget", min: 0, step: 1, hint: "tokens of thoughts" };

interface Deeds {
  changed(settings: Settings): void;
  keepAsDefaults(settings: Settings): void;
  close(): void;
}

/** How answers of the chat are asked for. */
export class Panel {
  readonly root = h("aside", { class: "panel", "aria-label": "Settings of this chat", id: "settings", hidden: true });
  private settings: Settings = { ...NO_SETTINGS };

  constructor(private readonly deeds: Deeds) {}

  /** The settings of a chat, which are changed in place. */
  show(settings: Settings): void {
    this.settings = settings;
    this.root.replaceChildren(
      h("header", {}, h("h2", {}, "Settings of this chat"), iconButton(ICONS.close, "Close settings", this.deeds.close)),
      h(
        "div",
        { class: "panel-body" },
        this.area("system", "System prompt", 5, "What the model should know and how it should speak"),
        h("h3", {}, "Sampling"),
        h("div", { class: "grid" }, ...SAMPLING.map((one) => this.number(one))),
        h("h3", {}, "Thinking"),
        h("div", { class: "grid" }, this.thinking(), this.number(BUDGET)),
        h("h3", {}, "Form of the answer"),
        this.area("stop", "Stop texts", 2, "One a line; they end the answer"),
        this.area("schema", "JSON schema", 4, "The answer keeps to it", true),
        this.area("tools", "Tools", 4, "JSON list of functions that the model may call", true),
        h("h3", {}, "Ratings"),
        this.sharing(),
        h(
          "div",
          { class: "panel-foot" },
          button("Use for new chats", () => this.deeds.keepAsDefaults(this.settings)),
          button("Reset", () => this.reset()),
        ),
      ),
    );
  }

  private number({ name, label, min, max, step, hint }: NumberField): HTMLElement {
    const input = h("input", { type: "number", min, max: max ?? null, step, placeholder: "default", inputmode: "decimal" });
    input.value = String(this.settings[name] ?? "");
    input.addEventListener("input", () => {
      const fine = input.checkValidity();
      input.setAttribute("aria-invalid", String(!fine));
      if (fine) this.set(name, input.value === "" ? null : Number(input.value));
    });
    return field(label, input, hint ?? null);
  }

  private thinking(): HTMLElement {
    const names = { default: "Default", on: "On", off: "Off" };
    const options = Object.entries(names).map(([value, text]) =>
      h("option", { value, selected: value === this.settings.thinking }, text),
    );
    const select = h("select", {}, ...options);
    select.addEventListener("change", () => this.set("thinking", select.value as Settings["thinking"]));
    return field("Thinking", select);
  }

  private sharing(): HTMLElement {
    const { root, input } = checkbox("Share rated answers", this.settings.shared);
    input.addEventListener("change", () => this.set("shared", input.checked));
    const hint = "The conversation goes with each rating, so that whoever runs the server can keep it and tune on it";
    return h("div", { class: "field" }, root, h("small", {}, hint));
  }

  private area(name: Name<string>, label: string, rows: number, hint: string, isJson = false): HTMLElement {
    const text = h("textarea", { rows, dir: isJson ? "ltr" : "auto", class: isJson ? "mono" : null, spellcheck: !isJson });
    text.value = this.settings[name];
    const wrong = h("small", { class: "wrong", role: "status" });
    text.addEventListener("input", () => {
      if (isJson) wrong.textContent = faultOf(text.value);
      text.setAttribute("aria-invalid", String(Boolean(wrong.textContent)));
      this.set(name, text.value as Settings[typeof name]);
    });
    return h("div", {}, field(label, text, hint), wrong);
  }

  private set<Key extends keyof Settings>(name: Key, value: Settings[Key]): void {
    this.settings[name] = value;
    this.deeds.changed(this.settings);
  }

  private reset(): void {
    Object.assign(this.settings, NO_SETTINGS);
    this.deeds.changed(this.settings);
    this.show(this.settings);
  }
}

function faultOf(text: string): string {
  try {
    if (text.trim()) jsonOf(text, "This");
    return "";
  } catch {
    return "Not JSON yet.";
  }
}
