// AMQP.
import { html } from "../vendor/preact.js";
import { Title } from "../ui/parts.js";

export const path = "amqp";
export const title = "AMQP";

export function Page() {
  return html`<${Title}>AMQP<//>`;
}
