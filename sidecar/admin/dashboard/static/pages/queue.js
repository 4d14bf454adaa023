// The HTTP queue.
import { html } from "../vendor/preact.js";
import { Title } from "../ui/parts.js";

export const path = "queue";
export const title = "HTTP queue";

export function Page() {
  return html`<${Title}>HTTP queue<//>`;
}
