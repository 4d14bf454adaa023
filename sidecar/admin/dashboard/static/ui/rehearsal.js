// Another configuration, tried against what was recorded of the last hour.
import { html, useState } from "../vendor/preact.js";
import { ask } from "../app/api.js";
import { number } from "./format.js";
import { Table } from "./table.js";

const end = (it) => `${it.status || "cut off"}${it.error ? ` ${it.error}` : ""}${it.attempts > 1 ? `, ${it.attempts} tries` : ""}${it.route ? `, ${it.route}` : ""}`;
const sum = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);
const both = (it, of) => `${number(of(it.before))} → ${number(of(it.after))}`;

const PORTS = [
  { title: "Upstream", head: true, cell: (it) => it.name ?? "inbound" },
  { title: "Requests", cell: (it) => number(it.requests) },
  { title: "Rejected", cell: (it) => both(it, (side) => sum(side.rejected)) },
  { title: "Failed", cell: (it) => both(it, (side) => side.failed) },
  { title: "Retries", cell: (it) => both(it, (side) => side.retries) },
  { title: "Breaker openings", cell: (it) => both(it, (side) => side.breaker_openings) },
  { title: "On another route", cell: (it) => number(it.changed.rerouted) },
];
const EXAMPLES = [
  { title: "At", head: true, look: "mono", cell: (it) => it.at.slice(11, 23) },
  { title: "Request", look: "mono", cell: (it) => `${it.method} ${it.path}` },
  { title: "Upstream", cell: (it) => it.upstream ?? "inbound" },
  { title: "Happened", cell: (it) => end(it.happened) },
  { title: "Would have", cell: (it) => end(it.would) },
  { title: "Because of", look: "mono", cell: (it) => it.setting ?? "–" },
];

function Found({ found }) {
  const trust = found.agreement === null ? "" : ` The running settings, rehearsed too, agree with what happened in ${(found.agreement * 100).toFixed(1)} %.`;
  return html`
    <p role="status">${number(found.decisions)} requests of the last ${number(Math.round(found.covered.seconds))} s.${trust}</p>
    <${Table} caption="What would have been different" columns=${PORTS} rows=${found.upstreams} keyOf=${(it) => it.name ?? ""} empty="Nothing is recorded yet." />
    ${found.examples.length > 0 &&
    html`<${Table} caption="For example" columns=${EXAMPLES} rows=${found.examples} keyOf=${(it) => `${it.at} ${it.path} ${it.changes}`} empty="" />`}
    <ul class="dim">
      ${found.not_rehearsed.map((it) => html`<li key=${it.what}>Not rehearsed: ${it.what}: ${it.reason}</li>`)}
    </ul>
  `;
}

/** The form; `config` is what is in force. */
export function Rehearsal({ config }) {
  const [text, setText] = useState(null);
  const [state, setState] = useState({});
  // In a file a dollar sign of its own is two.
  const shown = text ?? JSON.stringify(config, null, 2).replaceAll("$", "$$$$");
  const go = async (event) => {
    event.preventDefault();
    setState({ busy: true });
    try {
      setState({ found: await ask("/rehearse", { method: "POST", body: shown }) });
    } catch (error) {
      setState({ error });
    }
  };
  return html`
    <form onSubmit=${go}>
      <p class="dim"><label for="rehearsal">A configuration, as YAML or JSON: what would it have changed in the last hour? Nothing is sent or applied.</label></p>
      <textarea id="rehearsal" class="mono wide" rows="14" spellcheck=${false} value=${shown} onInput=${(event) => setText(event.target.value)}></textarea>
      <p class="buttons"><button class="main" disabled=${state.busy}>${state.busy ? "Rehearsing…" : "Rehearse"}</button></p>
    </form>
    ${state.error && html`<p class="bad" role="alert">▲ ${state.error.message}</p>`}
    ${state.found && html`<${Found} found=${state.found} />`}
  `;
}
