import { button, h, iconButton, type Child } from "../dom";
import { ICONS } from "../icons";

/** A modal dialog; resolves when it is closed, to whether it was confirmed. */
export function ask(title: string, confirm: string | null, ...content: Child[]): Promise<boolean> {
  const dialog = h("dialog", { "aria-label": title });
  let confirmed = false;
  const close = (): void => dialog.close();
  const form = h(
    "form",
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          confirmed = true;
          close();
        },
      },
    },
    h("header", {}, h("h2", {}, title), iconButton(ICONS.close, "Close", close)),
    h("div", { class: "dialog-body" }, ...content),
  );
  if (confirm !== null) {
    const yes = h("button", { type: "submit", class: "button primary" }, confirm);
    form.append(h("footer", {}, button("Cancel", close), yes));
  }
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  // Rather than the button that closes it.
  form.querySelector<HTMLElement>(".dialog-body :is(input, select, textarea), footer .primary")?.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(confirmed);
    });
  });
}

/** A label above a control. */
export function field(label: string, control: HTMLElement, hint: string | null = null): HTMLElement {
  const line = hint === null ? null : h("small", {}, hint);
  return h("label", { class: "field" }, h("span", {}, label), control, line);
}

export function checkbox(label: string, checked: boolean): { root: HTMLElement; input: HTMLInputElement } {
  const input = h("input", { type: "checkbox", checked });
  return { root: h("label", { class: "check" }, input, h("span", {}, label)), input };
}
