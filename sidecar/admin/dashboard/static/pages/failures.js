// Failures.
import { html } from "../vendor/preact.js";
import { Title } from "../ui/parts.js";

export const path = "failures";
export const title = "Failures";

export function Page() {
  return html`<${Title}>Failures<//>`;
}
