// Takes the server's page over.
import { html, render } from "../vendor/preact.js";
import { start } from "./events.js";
import { Shell } from "./shell.js";

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${Shell} />`, root);
start();
