// How the sidecar is, at one look.
import { html, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { useStore } from "../app/store.js";
import { Events } from "../ui/events.js";
import { ms, number, percent, rate, timely } from "../ui/format.js";
import { Facts, Section, Title, Troubles } from "../ui/parts.js";
import { Past } from "../ui/past.js";
import { Policies } from "../ui/policies.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";
import { Share, slow, tooSlow, UPSTREAM, worstFirst } from "../ui/upstreams.js";

export const path = "overview";
export const title = "Overview";

const MOST = 12;
const COLUMNS = ["name", "health", "why", "endpoints", "breaker", "rate", "errors", "p50", "p99"].map((it) => UPSTREAM[it]);

export function Page() {
  const now = useStore((it) => it.now);
  if (!now) return html`<${Title}>Overview<//><p class="empty">Waiting for the sidecar…</p>`;
  return html`
    <${Title} beside=${html`<${Status} is=${now.status} />`}>Overview<//>
    <${Health} now=${now} />
    <div class="pair">
      ${now.inbound && html`<${Traffic} title="In, to the app" it=${now.inbound} />`}
      <${Traffic} title="Out, HTTP to upstreams" it=${now.outbound} more=${sums(now.upstreams)} />
    </div>
    ${now.inbound && html`<${Inbound} />`}
    <${Listener} now=${now} />
    <${Upstreams} upstreams=${now.upstreams} />
    <${Section} title="Last changes"><${Events} most=${10} /><//>
  `;
}

function Health({ now }) {
  const troubles = reasons(now);
  if (!troubles.length) return html`<p class="calm"><${Status} is="healthy" says="Nothing is wrong" /> ${now.app.output && html`<span class="dim">app: ${now.app.output}</span>`}</p>`;
  return html`<${Troubles} troubles=${troubles} />`;
}

/** A share of errors that is told at the top, whatever the health is: a sidecar is well while its app answers 502. */
const FAILING = 0.01;

/** What is wrong: [state, name, reason, link]. */
function reasons(now) {
  const found = [];
  if (now.waiting_for) found.push(["waiting", "waits", now.waiting_for]);
  for (const text of now.faults ?? []) found.push(["warning", "fault injected", timely(text)]);
  if (now.app.status !== "healthy") found.push([now.app.status, "app", now.app.output]);
  if (now.registry && !now.registry.up) found.push(["down", "registry", `it has not answered for ${number(now.registry.age)} s; what it last said is in use`]);
  for (const it of worstFirst(now.upstreams)) {
    if (it.status !== "healthy") found.push([it.status, it.name, timely(it.output), to("upstreams", it.name)]);
    else if (it.error_rate > FAILING) found.push(["failing", it.name, `${percent(it.error_rate)} of what goes out to it fails`, to("upstreams", it.name)]);
    else if (slow(it)) found.push(["slow", it.name, tooSlow(it), to("upstreams", it.name)]);
  }
  if (now.inbound?.error_rate > FAILING) found.push(["failing", "inbound", `${percent(now.inbound.error_rate)} of what comes in fails`, to("failures")]);
  else if (now.inbound && slow(now.inbound)) found.push(["slow", "inbound", tooSlow(now.inbound), to("mesh")]);
  return found;
}

const sums = (upstreams) => {
  let active = 0;
  let pending = 0;
  for (const it of Object.values(upstreams)) {
    if (it.protocol === "http") {
      active += it.active;
      pending += it.pending;
    }
  }
  return { active, pending };
};

function Traffic({ title, it, more = it }) {
  return html`<section class="card" aria-label=${title}>
    <h2>${title}</h2>
    <${Facts}
      facts=${[
        ["Rate", rate(it.rate)],
        ["Errors", html`<${Share} share=${it.error_rate} />`],
        ["p50", ms(it.p50_ms)],
        ["p95", ms(it.p95_ms)],
        ["p99", ms(it.p99_ms)],
        ["Active", number(more.active)],
        ["Waiting", number(more.pending)],
      ]}
    />
  </section>`;
}

/** What the inbound port's policies are at, if one has something to say. */
function Inbound() {
  const filters = usePoll("/inbound", 5).data?.stats.filters;
  return filters && Object.keys(filters).length > 0 && html`<${Section} title="Policies of what comes in"><${Policies} filters=${filters} /><//>`;
}

function Listener({ now }) {
  const [chosen, choose] = useState(null);
  const names = Object.keys(now.upstreams);
  const of = chosen ?? (now.inbound ? "inbound" : "outbound");
  const select = html`<label class="choose">of
    <select value=${of} onChange=${(event) => choose(event.target.value)}>
      ${now.inbound && html`<option value="inbound">what comes in</option>`}
      <option value="outbound">all HTTP upstreams</option>
      ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>
  </label>`;
  return html`<${Section} title="The last 15 minutes" beside=${select}><${Past} key=${of} of=${of} /><//>`;
}

function Upstreams({ upstreams }) {
  const rows = useMemo(() => worstFirst(upstreams), [upstreams]);
  const beside = rows.length > MOST && html`<a href=${to("upstreams")}>All ${rows.length}</a>`;
  return html`<${Section} title="Upstreams" beside=${beside}>
    <${Table} caption="Upstreams" columns=${COLUMNS} rows=${rows.slice(0, MOST)} keyOf=${(it) => it.name} empty="This sidecar has no upstreams." />
  <//>`;
}
