// Elements without markup in strings: the policy of the page allows no other way, and texts stay texts.

export type Child = Node | string | null | false;
export interface Props {
  on?: { [Name in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[Name]) => void };
  [attribute: string]: string | number | boolean | null | undefined | Props["on"];
}

/** An element with attributes (true: present without a value; false, null: absent; of ARIA: as words), listeners and children. */
export function h<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(props.on ?? {})) {
        element.addEventListener(event, listener as EventListener);
      }
    } else if (name.startsWith("aria-") && typeof value === "boolean") element.setAttribute(name, String(value));
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A drawing of strokes on a field of 24 by 24; it says nothing to screen readers. */
export function icon(path: string): SVGSVGElement {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const strokes = document.createElementNS(SVG, "path");
  strokes.setAttribute("d", path);
  drawing.append(strokes);
  return drawing;
}

/** A button that shows a drawing; its label is read out and shown as a hint. */
export function iconButton(path: string, label: string, click: () => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...props, on: { click } }, icon(path));
}

export function button(text: string, click: () => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "button", ...props, on: { click } }, text);
}

/** Puts `text` on the clipboard, and says on the button for a moment that it did. */
export async function copyWith(control: HTMLElement, text: string): Promise<void> {
  await navigator.clipboard.writeText(text);
  control.classList.add("copied");
  setTimeout(() => control.classList.remove("copied"), 1500);
}

/** Gives the user a file. */
export function download(name: string, type: string, content: BlobPart): void {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Asks for files of the user's. */
export function chooseFiles(accept: string, several: boolean): Promise<File[]> {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept, multiple: several });
    input.addEventListener("change", () => resolve([...(input.files ?? [])]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
