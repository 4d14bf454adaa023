// Why one request went as it did.
import { html } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { clock, ms, number, timely, word } from "./format.js";
import { Facts, Section, Title, Waiting } from "./parts.js";
import { useSidecars, Way } from "./sidecars.js";
import { Status } from "./status.js";
import { Table } from "./table.js";

const HOPS = [
  { title: "Sidecar of", head: true, cell: (it) => it.service },
  { title: "Way", cell: (it) => (it.direction === "inbound" ? "in" : it.direction === "outbound" ? `out to ${it.upstream}` : "") },
  { title: "Went", cell: (it) => html`<${Status} is=${it.problem ? "unknown" : it.failed ? "failing" : "passing"} says=${it.problem ? "not known" : it.failed ? "badly" : "well"} />` },
  { title: "Status", num: true, cell: (it) => it.status ?? "" },
  { title: "Took", num: true, cell: (it) => ms(it.duration_ms) },
  { title: "Why", look: "text", cell: (it) => it.problem ?? timely(it.cause) },
];

const KNOWN = new Set(["at_ms", "what", "service", "i"]);

function shown(value) {
  if (Array.isArray(value)) return value.map(shown).join("; ");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, it]) => `${word(name)} ${shown(it)}`).join(", ");
}


const EVENTS = [
  { title: "After", num: true, cell: (it) => ms(it.at_ms) },
  { title: "What", head: true, cell: (it) => word(it.what) },
  { title: "Sidecar of", cell: (it) => it.service },
  {
    title: "Details",
    look: "text",
    cell: (it) =>
      Object.entries(it)
        .filter(([name]) => !KNOWN.has(name))
        .map(([name, value]) => html`<span key=${name} class="detail"><span class="dim">${word(name)}</span> ${shown(value)}</span>`),
  },
];

export function Story({ id }) {
  const poll = usePoll(`/why/${encodeURIComponent(id)}`, 0);
  const services = useSidecars();
  const it = poll.data;
  const back = html`<a href=${to("failures")}>All failures</a>`;
  if (!it) return html`<${Title} beside=${back}>One request<//><${Waiting} poll=${poll} />`;
  const rows = it.events.map((event, i) => ({ ...event, i }));
  return html`
    <${Title} beside=${back}>One request<//>
    <div class="panel cause">
      <p><b>${timely(it.cause) || "It went well."}</b></p>
      ${it.cause_at && it.cause_at !== it.service && html`<p>This was found at the sidecar of <b>${it.cause_at}</b>. <${Way} to=${services.get(it.cause_at)} label="Its dashboard" about=${it.cause_at} /></p>`}
      ${it.setting && html`<p class="dim">This would change with <code>${it.setting}</code></p>`}
    </div>
    <${Facts}
      facts=${[
        ["Status", it.status ?? "–"],
        ["Code", it.error ? word(it.error) : "–"],
        ["Took", ms(it.duration_ms)],
        ["Tries", number(it.attempts)],
        ["Began", clock(it.began)],
      ]}
    />
    <p><code>${it.method ?? it.protocol} ${it.path ?? ""}</code> ${it.client && html`<span class="dim">from ${it.client}</span>`}</p>
    <p class="dim">request <code>${it.request_id}</code>${it.trace_id && html` · trace <code>${it.trace_id}</code>`}</p>
    <${Section} title="Its way"><${Table} caption="Its way, hop by hop" columns=${HOPS} rows=${it.hops} keyOf=${(hop) => `${hop.service} ${hop.direction} ${hop.upstream} ${hop.at}`} /><//>
    <${Section} title="What happened"><${Table} caption="What happened, in order" columns=${EVENTS} rows=${rows} keyOf=${(event) => event.i} empty="Nothing more is known." /><//>
  `;
}
