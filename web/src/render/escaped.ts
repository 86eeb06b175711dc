/** `text` as markup that shows it. */
export function escaped(text: string): string {
  const spelled: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => spelled[character] ?? character);
}
