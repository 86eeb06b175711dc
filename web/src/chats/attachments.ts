import type { Attachment } from "./types";

export const MOST_BYTES = 1 << 20;
export const MOST_FILES = 10;
/** A longer text that is pasted becomes an attachment. */
export const LONG_PASTE = 4000;

/** A file as text. Throws an Error that says why it cannot be one. */
export async function readFile(file: File): Promise<Attachment> {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES >> 20} MiB.`);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not text in UTF-8.`);
  }
  if (text.includes("\0")) throw new Error(`${file.name} is not text.`);
  return { name: file.name, text };
}
