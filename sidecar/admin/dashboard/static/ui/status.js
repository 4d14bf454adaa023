// A state, as a shape and a word: its colour only helps.
import { html } from "../vendor/preact.js";
import { word } from "./format.js";

const GOOD = ["●", "good"];
const WARN = ["▲", "warn"];
const BAD = ["■", "bad"];
const LOOKS = {
  healthy: GOOD, ready: GOOD, closed: GOOD, up: GOOD, passing: GOOD,
  warning: WARN, starting: WARN, draining: WARN, slow: WARN, half_open: ["◐", "warn"], waiting: WARN,
  unhealthy: BAD, stopped: BAD, open: BAD, down: BAD, ejected: ["✕", "bad"], failing: BAD, not_answering: ["✕", "bad"],
};

/** `says`: the word to show, if it is another one than the state. */
export function Status({ is, says }) {
  const [shape, look] = LOOKS[is] ?? ["○", "dim"];
  return html`<span class=${`status ${look}`}><i aria-hidden="true">${shape}</i>${says ?? word(is)}</span>`;
}
