import { ChatStore } from "./chats/store";
import { h } from "./dom";
import { App } from "./ui/app";
import { applyTheme } from "./ui/theme";

applyTheme();
try {
  await new App(await ChatStore.open()).start();
} catch (error) {
  document.body.append(h("p", { class: "broken", role: "alert" }, `The page could not start: ${String(error)}`));
}
