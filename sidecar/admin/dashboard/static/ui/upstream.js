// One upstream: what passes, its breaker, its endpoints, its limits, and what happened.
import { html } from "../vendor/preact.js";
import { ask, usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { useStore } from "../app/store.js";
import { Canary } from "./canary.js";
import { Asking } from "./dialog.js";
import { Events } from "./events.js";
import { bytes, clock, ms, number, percent, rate, seconds, timely, until, word } from "./format.js";
import { Facts, Section, Title, Waiting } from "./parts.js";
import { Past } from "./past.js";
import { Policies } from "./policies.js";
import { address, Way } from "./sidecars.js";
import { Status } from "./status.js";
import { Table } from "./table.js";
import { Share } from "./upstreams.js";

export function Upstream({ name }) {
  const it = useStore((state) => state.now?.upstreams[name]);
  const known = useStore((state) => state.now !== null);
  const poll = usePoll(`/upstreams/${encodeURIComponent(name)}`, 3);
  const crumbs = html`<a href=${to("upstreams")}>Upstreams</a>`;
  if (!it) return html`<${Title} beside=${crumbs}>${name}<//><p class="empty">${known ? "There is no upstream of that name." : "Waiting for the sidecar…"}</p>`;
  return html`
    <${Title} beside=${html`<${Status} is=${it.status} />`}>${name}<//>
    <p class="dim">${timely(it.output)} · ${it.protocol} on <code>${it.bind}</code> · ${word(it.balancer)}</p>
    <section class="card" aria-label="Traffic">
      <${Facts} facts=${traffic(it)} />
    </section>
    ${it.breaker && html`<${Breaker} name=${name} breaker=${it.breaker} more=${poll.data?.breaker} />`}
    ${poll.data?.canary && html`<${Canary} name=${name} canary=${poll.data.canary} />`}
    <${Section} title="Endpoints">
      <${Table} caption="Endpoints" columns=${columnsFor(it.each)} rows=${it.each} keyOf=${(row) => `${row.address} ${row.id}`} empty="None is known." />
    <//>
    ${poll.data && Object.keys(poll.data.stats.filters).length > 0 && html`<${Section} title="Policies"><${Policies} filters=${poll.data.stats.filters} /><//>`}
    <${Section} title="The last 15 minutes"><${Past} of=${name} /><//>
    <${Section} title="Since the start"><${Waiting} poll=${poll} />${poll.data && html`<${Counters} it=${poll.data} />`}<//>
    <${Section} title="What happened"><${Events} most=${20} upstream=${name} /><//>
  `;
}

const traffic = (it) => [
  ["Rate", rate(it.rate)],
  ["Errors", html`<${Share} share=${it.error_rate} />`],
  ["p50", ms(it.p50_ms)],
  ["p95", ms(it.p95_ms)],
  ["p99", ms(it.p99_ms)],
  ["Active", number(it.active)],
  ["Waiting", number(it.pending)],
  ["Clients", number(it.connections)],
  it.queued !== null && ["Queued", number(it.queued)],
];

/** Whether an endpoint gets requests, and why not or not as many as others. */
function Rotation({ it }) {
  const out = it.ejected || it.state === "unhealthy";
  const says = out ? `no, ${it.ejected ? "ejected" : "unhealthy"}` : it.state === "warning" ? "yes, with a warning" : "yes";
  const notes = [
    it.ejection && `${it.ejection.text}${it.ejected && it.ejection.until ? `, until ${timely(it.ejection.until)}` : ""}`,
    !out && it.share < 1 && `starts slowly: ${percent(it.share)} of its share`,
    it.check && it.check.status !== "healthy" && `check: ${it.check.output}`,
  ].filter(Boolean);
  return html`<${Status} is=${it.ejected ? "ejected" : it.state} says=${says} />${notes.map((note) => html`<small key=${note} class="note">${note}</small>`)}`;
}

/** Columns with a `key` are shown where an endpoint has that: what the balancer goes by, for one. */
const ENDPOINTS = [
  { title: "Endpoint", head: true, cell: (it) => html`${it.hostname && html`${it.hostname} `}<code>${it.address}</code>` },
  { title: "Subset", key: "subset", cell: (it) => it.subset },
  { title: "In rotation", cell: (it) => html`<${Rotation} it=${it} />` },
  { title: "Weight", num: true, cell: (it) => number(it.weight) },
  { title: "Active", num: true, cell: (it) => number(it.active) },
  { title: "Expected", num: true, key: "ewma_ms", cell: (it) => ms(it.ewma_ms) },
  { title: "It reports", key: "reported", cell: ({ reported: it }) => it && `${number(it.in_flight)} under way, ${ms(it.latency_ms)}` },
  { title: "Of the keys", num: true, key: "hash_share", cell: (it) => percent(it.hash_share) },
  { title: "Failures in a row", num: true, cell: (it) => html`<span class=${it.failures ? "warn" : "dim"}>${number(it.failures)}</span>` },
  {
    title: "Last error",
    look: "text",
    cell: ({ last_error: last }) => last && html`${last.text} <small>${word(last.kind)}, ${clock(last.at)}</small>`,
  },
  { title: "Id", look: "mono dim", key: "id", cell: (it) => it.id },
  { title: "Its sidecar", key: "admin", cell: (it) => html`<${Way} to=${address(it)} label="Dashboard" about=${it.id || it.address} />` },
];

const variants = new Map();

/** The same list for the same columns, so that rows stay as they are. */
function columnsFor(rows) {
  const shown = ENDPOINTS.filter(({ key }) => !key || rows.some((it) => (it[key] ?? "") !== ""));
  const name = shown.map((it) => it.key).join();
  if (!variants.has(name)) variants.set(name, shown);
  return variants.get(name);
}

function Breaker({ name, breaker, more }) {
  const held = breaker.held;
  return html`<${Section} title="Circuit breaker">
    <div class="panel row">
      <div>
        <${Status} is=${breaker.state} />
        ${breaker.forced === "auto"
          ? html`<span class="dim"> by itself${more?.retry_after > 0 && `; tries again in ${seconds(more.retry_after)}`}</span>`
          : html`<span> held ${breaker.forced}${held && html` by ${held.by}, ${held.until ? until(held.until) : "until it is released"}${held.reason && html`: “${held.reason}”`}`}</span>`}
        ${more && html`<div class="dim">${number(more.failures)} failures in a row · open for ${seconds(more.open_seconds)} in all</div>`}
      </div>
      <div class="buttons">
        <${Hold} name=${name} mode="open" label="Hold open" says="No request gets through: each is refused at once." danger=${true} />
        <${Hold} name=${name} mode="close" label="Hold closed" says="All requests go through, however many fail." />
        <${Hold} name=${name} mode="auto" label="Release" says="It opens and closes by itself again." disabled=${breaker.forced === "auto"} />
      </div>
    </div>
  <//>`;
}

function Hold({ name, mode, label, says, danger, disabled }) {
  const hold = ({ reason = "", time = "" }) =>
    ask(`/upstreams/${encodeURIComponent(name)}/breaker/${mode}`, {
      method: "POST",
      body: { reason, by: "dashboard", ...(time && { for: time }) },
    });
  return html`<${Asking} label=${label} look=${danger ? "danger" : ""} disabled=${disabled} title=${`${label}: ${name}`} action=${label} danger=${danger} onConfirm=${hold}>
    <p>${says}</p>
    ${mode !== "auto" &&
    html`<label class="field">Why, for clients and colleagues <input name="reason" required maxlength="200" autocomplete="off" /></label>
      <label class="field">For how long
        <select name="time">
          <option value="5m">5 minutes</option>
          <option value="15m" selected>15 minutes</option>
          <option value="1h">1 hour</option>
          <option value="">until it is released</option>
        </select>
      </label>`}
  <//>`;
}

const COUNTERS = [
  { title: "What", head: true, cell: (it) => it[0] },
  { title: "Which", cell: (it) => html`<code>${it[1]}</code>` },
  { title: "How often", num: true, cell: (it) => it[2] },
];

function Counters({ it }) {
  const stats = it.stats;
  const of = (title, counts) => Object.entries(counts).map(([name, n]) => [title, name, number(n)]);
  const rows = [
    ...of("answers", stats.requests),
    ...of("refused by the sidecar", stats.rejected),
    ...of("tried again", stats.retries),
    ...of("no connection", stats.connect_failures),
    ...of("answers of peer sidecars", stats.peer_errors),
    ...Object.entries(stats.filters).flatMap(([filter, counts]) =>
      Object.entries(counts).filter(([, n]) => typeof n === "number").map(([name, n]) => [`filter ${word(filter)}`, word(name), number(n)]),
    ),
    ...it.route_breakers.map((route) => ["breaker of a route", route.path, word(route.state)]),
    ["bytes", "from clients", bytes(stats.bytes_in)],
    ["bytes", "to clients", bytes(stats.bytes_out)],
    ...of("connections now", stats.connections),
  ];
  return html`<div class="narrow"><${Table} caption="Counters" columns=${COUNTERS} rows=${rows} keyOf=${(row) => `${row[0]} ${row[1]}`} /></div>
    ${it.names.length > 0 && html`<h3>Host names</h3><${Table} caption="Host names" columns=${NAMES} rows=${it.names} keyOf=${(row) => row.name} />`}`;
}

const NAMES = [
  { title: "Name", head: true, cell: (it) => it.name },
  { title: "Resolves", cell: (it) => html`<${Status} is=${it.error ? "failing" : "passing"} says=${it.error ? "no" : "yes"} />` },
  { title: "Addresses", look: "mono", cell: (it) => it.addresses.join(", ") },
  { title: "Last looked up", num: true, cell: (it) => (it.age === null ? "never" : `${seconds(it.age)} ago`) },
  { title: "Why not", look: "text", cell: (it) => it.error },
];
