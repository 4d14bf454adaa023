// A canary: how far it is, what it waits for, and what an operator can do with it.
import { html } from "../vendor/preact.js";
import { ask } from "../app/api.js";
import { Asking } from "./dialog.js";
import { clock, number, percent, word } from "./format.js";
import { Section } from "./parts.js";
import { Status } from "./status.js";
import { Table } from "./table.js";

const OVER = ["rolled_back", "done"];

/** Of evidence, the part that a verdict takes; with all of it there is one. */
const EVIDENCE = [
  { title: "Seen by", head: true, cell: (it) => it.by },
  { title: "Requests", num: true, cell: (it) => number(it.requests) },
  { title: "Failed", num: true, cell: (it) => number(it.errors) },
  { title: "More errors", num: true, cell: (it) => percent(it.more_errors) },
  { title: "Slower", num: true, cell: (it) => percent(it.slower) },
  { title: "No more errors", num: true, cell: (it) => percent(it.no_more_errors) },
  { title: "Not slower", num: true, cell: (it) => percent(it.not_slower) },
];

/** Rows of that: what all sidecars have seen, and what this one has, which by itself can only roll back. */
function seen({ evidence, ...it }) {
  const here = { requests: it.requests_here, errors: it.errors_here, more_errors: evidence.more_errors_here, slower: evidence.slower_here };
  return [
    { by: it.sidecars > 1 ? `${number(it.sidecars)} sidecars` : "this sidecar", ...it, ...evidence },
    it.sidecars > 1 && { by: "this one alone", ...here },
  ].filter(Boolean);
}

export function Canary({ name, canary: it }) {
  const over = OVER.includes(it.phase);
  const judged = it.judged;
  return html`<${Section} title="Canary">
    <div class="panel row">
      <div>
        <${Status} is=${it.phase === "rolled_back" ? "failing" : "passing"} says=${word(it.phase)} />
        <span> ${it.subset} gets ${number(it.weight)} %, step ${number(it.step)} of ${number(it.steps.length)} (${it.steps.join(", ")})</span>
        ${it.reason && html`<div class="dim">${it.reason}, ${it.by}${it.at && html`, ${clock(it.at)}`}</div>`}
        ${it.waits_for && html`<div>waits for ${it.waits_for}</div>`}
        ${!it.told && html`<div class="warn">The registry is away: other sidecars do not know yet.</div>`}
        ${judged && html`<div class="dim">of the others ${number(judged.others_errors)} of ${number(judged.others_requests)} requests failed${judged.slow_above_ms !== null && html`; what takes more than ${number(judged.slow_above_ms)} ms is slow`}</div>`}
      </div>
      <div class="buttons">
        <${Act} name=${name} action="promote" label="Promote" says="It gets its next step, in all sidecars." disabled=${over} />
        ${it.phase === "running"
          ? html`<${Act} name=${name} action="pause" label="Pause" says="It stays at its step. It is still rolled back when its guard is broken." />`
          : html`<${Act} name=${name} action="resume" label=${over ? "Begin anew" : "Resume"} says=${over ? "It begins with its first step once more." : "It goes on."} />`}
        <${Act} name=${name} action="rollback" label="Roll back" says="It gets nothing any more, in all sidecars." danger=${true} disabled=${it.phase === "rolled_back"} />
      </div>
    </div>
    ${judged && html`<${Table} caption="Evidence, of what a verdict takes" visible=${true} columns=${EVIDENCE} rows=${seen(judged)} keyOf=${(row) => row.by} />`}
  <//>`;
}

function Act({ name, action, label, says, danger, disabled }) {
  const act = () => ask(`/upstreams/${encodeURIComponent(name)}/canary/${action}`, { method: "POST" });
  return html`<${Asking} label=${label} look=${danger ? "danger" : ""} disabled=${disabled} title=${`${label}: the canary of ${name}`} action=${label} danger=${danger} onConfirm=${act}>
    <p>${says}</p>
  <//>`;
}
