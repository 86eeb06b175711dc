import { applyTheme } from "../ui/theme";
import { Dashboard } from "./dashboard";

applyTheme();
await new Dashboard().start();
