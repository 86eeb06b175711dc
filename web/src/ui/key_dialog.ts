import { keepKey } from "../api/key";
import { h } from "../dom";
import { ask, checkbox, field } from "./dialog";

/** The server's key; false: the user has none. */
export async function askKey(refused: boolean): Promise<boolean> {
  const input = h("input", { type: "password", required: true, autocomplete: "off", spellcheck: false });
  const remember = checkbox("Remember it in this browser", false);
  const why = refused ? "The server did not accept the key." : "This server asks for a key. Whoever runs it gives you one.";
  const given = await ask("Key", "Use key", h("p", { class: refused ? "wrong" : null }, why), field("Key", input), remember.root);
  const key = input.value.trim();
  if (!given || !key) return false;
  keepKey(key, remember.input.checked);
  return true;
}
