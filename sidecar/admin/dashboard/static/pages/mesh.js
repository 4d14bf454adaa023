// Who calls whom: a graph that stands still between updates, and the same as tables.
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { DASH, ms, number, percent, rate } from "../ui/format.js";
import { Graph } from "../ui/graph.js";
import { Section, Title, Waiting } from "../ui/parts.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";
import { Share } from "../ui/upstreams.js";

export const path = "mesh";
export const title = "Mesh";

const RANK = { not_answering: 0, unhealthy: 1, warning: 2, healthy: 3, unknown: 4 };
const worst = (a, b) =>
  RANK[a.status] - RANK[b.status] || (b.error_rate ?? 0) - (a.error_rate ?? 0) || (b.rate ?? 0) - (a.rate ?? 0);

const FIGURES = [
  { title: "Rate", num: true, cell: (it) => rate(it.rate) },
  { title: "Errors", num: true, cell: (it) => html`<${Share} share=${it.error_rate} />` },
  { title: "p50", num: true, cell: (it) => ms(it.p50_ms) },
  { title: "p99", num: true, cell: (it) => ms(it.p99_ms) },
];
const STATUS = { title: "Status", cell: (it) => html`<${Status} is=${it.status} />` };
const WHY = { title: "Why", look: "why", cell: (it) => it.problem };
const SERVICES = [
  { title: "Service", head: true, cell: (it) => it.name },
  STATUS,
  WHY,
  { title: "Instances", num: true, cell: (it) => (it.kind === "service" ? number(it.instances) : DASH) },
  ...FIGURES,
  { title: "Dashboards", cell: (it) => html`<${Links} of=${it} />` },
];
const EDGES = [
  { title: "From", head: true, cell: (it) => it.from },
  { title: "To", cell: (it) => it.to },
  STATUS,
  WHY,
  { title: "Protocol", look: "dim", cell: (it) => it.protocol },
  ...FIGURES,
];

/** To the dashboards of a service's own sidecars. Only an address with a port at which one has answered becomes a link. */
function Links({ of }) {
  const known = of.sidecars.filter((it) => !it.problem && /^(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}$/.test(it.admin));
  return known.map((it) => html`<a class="nowrap" key=${it.admin} href=${`http:${"//"}${it.admin}/`} rel="noreferrer">${it.admin}</a> `);
}

export function Page() {
  const poll = usePoll("/mesh", 2);
  const [outside, setOutside] = useState(true);
  const [dagre, setDagre] = useState(null);
  useEffect(() => void import("../vendor/dagre.js").then((it) => setDagre(it)), []);
  const services = useMemo(() => [...(poll.data?.services ?? [])].sort(worst), [poll.data]);
  const edges = useMemo(() => [...(poll.data?.edges ?? [])].sort(worst), [poll.data]);
  const shown = useMemo(() => services.filter((it) => outside || it.kind === "service"), [services, outside]);
  const hide = html`<label><input type="checkbox" checked=${outside} onChange=${(it) => setOutside(it.target.checked)} /> Show what has no sidecar</label>`;
  return html`<${Title} beside=${hide}>Mesh<//>
    <${Waiting} poll=${poll} />
    ${poll.data?.problem && html`<p class="warn">▲ ${poll.data.problem}</p>`}
    ${dagre && shown.length > 1 && html`<${Graph} dagre=${dagre} services=${shown} edges=${edges} />`}
    ${poll.data &&
    html`<${Section} title="Services"><${Table} caption="Services" columns=${SERVICES} rows=${services} keyOf=${(it) => it.name} /><//>
      <${Section} title="Calls"><${Table} caption="Calls" columns=${EDGES} rows=${edges} keyOf=${(it) => JSON.stringify([it.from, it.to])} empty="Nobody calls anybody." /><//>`}`;
}
