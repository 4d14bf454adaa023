// Upstreams in a table, and what is wrong with them.
import { html } from "../vendor/preact.js";
import { to } from "../app/router.js";
import { ms, number, percent, rate, timely } from "./format.js";
import { Status } from "./status.js";

const RANK = { unhealthy: 0, warning: 1, healthy: 2 };

/** [{name, ...}], the worst first, then by name. */
export function worstFirst(upstreams) {
  return Object.entries(upstreams)
    .map(([name, it]) => named(name, it))
    .sort((a, b) => RANK[a.status] - RANK[b.status] || a.name.localeCompare(b.name));
}

const names = new WeakMap();

/** The same object for the same upstream, so that its row stays as it is. */
function named(name, it) {
  let found = names.get(it);
  if (!found) names.set(it, (found = { ...it, name }));
  return found;
}

/** Milliseconds above which one answer in a hundred is told of, as the alert ServiceLatency does. */
const SLOW_MS = 500;

/** Whether answers take long. A connection of TCP or AMQP lasts as long as its client wants. */
export const slow = (it) => it.p99_ms > SLOW_MS && !["tcp", "amqp"].includes(it.protocol);
export const tooSlow = (it) => `one answer in a hundred takes ${ms(it.p99_ms)} or longer (p99 above ${ms(SLOW_MS)})`;

const inUse = ({ known, ejected, unhealthy }) => html`${known - ejected - (unhealthy || 0)}<span class="dim"> of ${known}</span>`;

export const UPSTREAM = {
  name: { title: "Upstream", head: true, cell: (it) => html`<a href=${to("upstreams", it.name)}>${it.name}</a>${it.protocol !== "http" && html` <small>${it.protocol}</small>`}` },
  health: { title: "Health", cell: (it) => html`<${Status} is=${it.status} />` },
  why: { title: "Why", look: "why", late: true, cell: (it) => (it.status === "healthy" ? (slow(it) ? tooSlow(it) : "") : timely(it.output)) },
  endpoints: { title: "Endpoints", num: true, late: true, cell: (it) => inUse(it.endpoints) },
  breaker: { title: "Breaker", cell: (it) => html`<${Breaker} breaker=${it.breaker} />` },
  rate: { title: "Rate", num: true, cell: (it) => rate(it.rate) },
  errors: { title: "Errors", num: true, cell: (it) => html`<${Share} share=${it.error_rate} />` },
  p50: { title: "p50", num: true, cell: (it) => ms(it.p50_ms) },
  p99: { title: "p99", num: true, cell: (it) => html`<span class=${slow(it) ? "warn" : undefined}>${ms(it.p99_ms)}</span>` },
  active: { title: "Active", num: true, cell: (it) => number(it.active) },
  waiting: { title: "Waiting", num: true, cell: (it) => number(it.pending) },
};

/** A share of errors; one that is not small looks like trouble. */
export function Share({ share }) {
  return html`<span class=${share > 0.05 ? "bad" : share > 0.01 ? "warn" : undefined}>${percent(share)}</span>`;
}

export function Breaker({ breaker }) {
  if (!breaker) return html`<span class="dim">off</span>`;
  return html`<${Status} is=${breaker.state} />${breaker.forced !== "auto" && html` <span class="tag">by hand</span>`}`;
}
