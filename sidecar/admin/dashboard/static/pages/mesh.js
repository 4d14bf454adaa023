// Who calls whom: a graph that stands still between updates, and the same as tables.
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { DASH, ms, number, percent, rate, timely, word } from "../ui/format.js";
import { Graph } from "../ui/graph.js";
import { Section, Title, Troubles, Waiting } from "../ui/parts.js";
import { address, known } from "../ui/sidecars.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";
import { Share, slow, tooSlow } from "../ui/upstreams.js";

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
const WHY = { title: "Why", look: "why", cell: (it) => timely(it.problem) };
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

function Links({ of, label = "" }) {
  return known(of).map((it) => html`<a class="nowrap" key=${it.admin} href=${address(it)} rel="noreferrer">${label}${it.admin}</a> `);
}

const MOST = 8;
const FAILING = 0.01;
/** What others cannot do to a service. */
const OWN = new Set(["not_answering", "unhealthy"]);
const ILL = new Set(["not_answering", "unhealthy", "warning"]);

/** [state, what is to be said], or null: it is well. A service is healthy while its app fails or is slow. `calls`: what it calls. */
function trouble(it, calls) {
  const refused = calls.filter((edge) => edge.problem).map((edge) => `to ${edge.to}: ${timely(edge.problem)}`);
  const says = (first) => [first, it.problem, ...refused].filter(Boolean).join("; ");
  if (it.status === "not_answering" || it.status === "unhealthy") return [it.status, it.problem || word(it.status)];
  if (it.error_rate > FAILING) return ["failing", says(`${percent(it.error_rate)} of what comes in fails`)];
  if (slow(it)) return ["slow", says(tooSlow(it))];
  return it.status === "warning" ? [it.status, says("") || "some of it is not well"] : null;
}

/** All that are in trouble, first those that call nothing else that is, and so are where it comes from: [{it, found, blamed}]. */
function wrong(services, edges) {
  const calls = new Map(services.map((it) => [it.name, []]));
  for (const edge of edges) if (edge.from !== edge.to) calls.get(edge.from)?.push(edge);
  const ill = new Map(services.map((it) => [it.name, trouble(it, calls.get(it.name))]).filter(([, found]) => found));
  const alone = edges.filter((edge) => edge.problem && !ill.has(edge.from) && !ill.has(edge.to));
  for (const edge of alone) ill.set(edge.from, ["warning", `to ${edge.to}: ${timely(edge.problem)}`]);
  return services
    .filter((it) => ill.has(it.name))
    .map((it) => ({ it, found: ill.get(it.name), blamed: OWN.has(it.status) ? [] : calls.get(it.name).map((edge) => edge.to).filter((name) => ill.has(name)) }))
    .sort((a, b) => Boolean(a.blamed.length) - Boolean(b.blamed.length));
}

function Wrong({ rows }) {
  if (!rows.length) return html`<p class="calm"><${Status} is="healthy" says="All services are well" /></p>`;
  const told = ({ it, found: [is, says], blamed }) => [is, it.name, blamed.length ? `${says}; it calls ${blamed.join(", ")}` : says, address(known(it)[0])];
  return html`<${Troubles} troubles=${rows.slice(0, MOST).map(told)} />
    ${rows.length > MOST && html`<p class="dim">and ${rows.length - MOST} more, in the table below</p>`}`;
}

/** The services in trouble, and those that call them or that they call. */
function around(rows, edges) {
  const ill = new Set(rows.map(({ it }) => it.name));
  const near = new Set(ill);
  for (const it of edges) {
    if (ill.has(it.from) || ill.has(it.to) || ILL.has(it.status)) {
      near.add(it.from);
      near.add(it.to);
    }
  }
  return (it) => near.has(it.name);
}

export function Page() {
  const poll = usePoll("/mesh", 2);
  const [outside, setOutside] = useState(true);
  const [only, setOnly] = useState(false);
  const [dagre, setDagre] = useState(null);
  useEffect(() => void import("../vendor/dagre.js").then((it) => setDagre(it)), []);
  const services = useMemo(() => [...(poll.data?.services ?? [])].sort(worst), [poll.data]);
  const edges = useMemo(() => [...(poll.data?.edges ?? [])].sort(worst), [poll.data]);
  const rows = useMemo(() => wrong(services, edges), [services, edges]);
  const shown = useMemo(() => {
    const seen = services.filter((it) => outside || it.kind === "service");
    return only ? seen.filter(around(rows, edges)) : seen;
  }, [services, rows, edges, outside, only]);
  const hide = html`<span class="choices">
    <label><input type="checkbox" checked=${only} onChange=${(it) => setOnly(it.target.checked)} /> Only trouble and what is next to it</label>
    <label><input type="checkbox" checked=${outside} onChange=${(it) => setOutside(it.target.checked)} /> Show what has no sidecar</label>
  </span>`;
  return html`<${Title} beside=${hide}>Mesh<//>
    <${Waiting} poll=${poll} />
    ${poll.data?.problem && html`<p class="warn">▲ ${poll.data.problem}</p>`}
    ${poll.data && html`<${Wrong} rows=${rows} />`}
    ${dagre && shown.length > 1 && html`<${Graph} dagre=${dagre} services=${shown} edges=${edges} links=${(it) => html`<${Links} of=${it} label="its dashboard: " />`} />`}
    ${poll.data &&
    html`<${Section} title="Services"><${Table} caption="Services" columns=${SERVICES} rows=${services} keyOf=${(it) => it.name} /><//>
      <${Section} title="Calls"><${Table} caption="Calls" columns=${EDGES} rows=${edges} keyOf=${(it) => JSON.stringify([it.from, it.to])} empty="Nobody calls anybody." /><//>`}`;
}
