// Colours of code. The library is loaded when the first block of code is finished.
import DOMPurify from "dompurify";

const MOST_CHARACTERS = 100_000;
let library: Promise<typeof import("./languages").default> | null = null;

/** Colours the text of a `code` element whose language is known; returns when it has. */
export async function colour(code: HTMLElement, language: string): Promise<void> {
  const text = code.textContent ?? "";
  if (!language || text.length > MOST_CHARACTERS) return;
  library ??= import("./languages").then((module) => module.default);
  const highlighter = await library;
  if (!highlighter.getLanguage(language)) return;
  const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(
    DOMPurify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }),
  );
}
