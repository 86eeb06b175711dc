interface Deeds {
  search(): void;
  startNew(): void;
  stop(): void;
  focus(): void;
  help(): void;
}

/** The keys that work everywhere on the page. */
export function listenForKeys(deeds: Deeds): void {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const act = control ? withControl(key, event.shiftKey, deeds) : alone(event.key, isText(event.target), deeds);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function withControl(key: string, shift: boolean, deeds: Deeds): (() => void) | null {
  if (key === "k" && !shift) return deeds.search;
  return key === "o" && shift ? deeds.startNew : null;
}

function alone(key: string, writing: boolean, deeds: Deeds): (() => void) | null {
  if (key === "Escape") return deeds.stop;
  if (writing) return null;
  return { "/": deeds.focus, "?": deeds.help }[key] ?? null;
}

function isText(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}
