// Configuration.
import { html } from "../vendor/preact.js";
import { Title } from "../ui/parts.js";

export const path = "configuration";
export const title = "Configuration";

export function Page() {
  return html`<${Title}>Configuration<//>`;
}
