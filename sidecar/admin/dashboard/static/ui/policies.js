// What the policies of one listener are at, in words. One that is not known here is shown by its numbers.
import { html } from "../vendor/preact.js";
import { to } from "../app/router.js";
import { bytes, ms, number, percent, plural, word } from "./format.js";
import { Status } from "./status.js";
import { Table } from "./table.js";

const some = (counts) => Object.entries(counts ?? {}).filter(([, n]) => n > 0).map(([name, n]) => `${word(name)} ${number(n)}`).join(", ");
const numbers = (it) => Object.entries(it).filter(([, n]) => typeof n === "number").map(([name, n]) => `${word(name)} ${number(n)}`).join(", ");

/** How a fallback answers that asks no upstream; what becomes of a shared limit without Redis. */
const BY = { stale: "an answer kept from before", answer: "a fixed answer" };
const ALONE = { local: "each sidecar counts for itself", allow: "all may pass", refuse: "all are refused" };

/** By filter: its view → rows of [policy, state, the state's word, what it is at]. */
const TELL = {
  retry: ({ budget, hedge }) => [
    budget && ["Retry budget", budget.left >= 1 ? "passing" : "warning", budget.left >= 1 ? "has room" : "empty", `${number(budget.left)} tries left; it grows by ${percent(budget.ratio)} of the requests and ${number(budget.min_per_second)}/s`],
    hedge && ["Second tries", "passing", "on", `${hedge.after_ms ? `after ${ms(hedge.after_ms)}` : "not yet: too few answers to know when"}${some({ ...hedge, after_ms: 0 }) && `; ${some({ ...hedge, after_ms: 0 })}`}`],
  ],
  bulkhead: (it) => {
    const waiting = some(it.waiting);
    const shed = some(it.shed);
    const found = it.level === undefined ? "" : it.latency_ms ? `, found from a latency of ${ms(it.latency_ms)}` : ", to be found from latency";
    return [["Concurrency", waiting ? "warning" : "passing", waiting ? "full" : "has room", [`${number(it.in_flight)} of ${number(it.limit)} under way${found}`, waiting && `waiting: ${waiting}`, shed && `turned away since the start: ${shed}`].filter(Boolean).join("; ")]];
  },
  wait: (it) => [["Waiting for it", it.waiting ? "waiting" : "passing", it.waiting ? "some wait" : "nobody waits", [`${number(it.waiting)} of ${number(it.max)}`, it.under_trial > 0 && `${number(it.under_trial)} under trial`, some({ passed: it.passed, "timed out": it.timed_out, "found it full": it.full })].filter(Boolean).join("; ")]],
  fallback: (it) => [
    ...(it.steps ?? []).map((step, at) => {
      const n = it.answered?.[at + 1] ?? 0;
      const by = step.upstream ? html`upstream <a href=${to("upstreams", step.upstream)}>${step.upstream}</a>` : (BY[step.by] ?? word(step.by));
      return [`Fallback ${at + 1}`, n ? "warning" : "passing", n ? "was needed" : "not needed", html`${by} on ${step.on.map(word).join(", ")}; answered ${number(n)} since the start`];
    }),
    it.stale && ["Kept answers", "passing", "on", `${plural(it.stale.entries, "answer")}, ${bytes(it.stale.bytes)}`],
  ],
  faults: (it) => (it.on ?? []).map((text, at) => [`Fault ${at + 1}`, "warning", "is injected", `${text}${at === 0 && some(it.injected) ? `; so far: ${some(it.injected)}` : ""}`]),
  rate_limit: (it) => it.shared && [["Shared rate limit", it.shared === "redis" ? "passing" : "warning", it.shared === "redis" ? "shared" : "Redis is away", `${it.shared === "redis" ? "" : `${ALONE[it.shared] ?? word(it.shared)}; `}${plural(it.sidecars, "sidecar")}, ${plural(it.keys, "key")}${it.leased ? `, ${number(it.leased)} taken in advance` : ""}`]],
};

const COLUMNS = [
  { title: "Policy", head: true, cell: ([name]) => name },
  { title: "State", cell: ([, is, says]) => html`<${Status} is=${is} says=${says} />` },
  { title: "What it is at", look: "text", cell: ([, , , text]) => text },
];

function rows(filters) {
  return Object.entries(filters).flatMap(([name, view]) => {
    let told;
    try {
      told = TELL[name]?.(view);
    } catch {
      told = null; // another version's view
    }
    return (told ?? (numbers(view) ? [[word(name), "unknown", "", numbers(view)]] : [])).filter(Boolean);
  });
}

/** Nothing, if there are none. */
export function Policies({ filters }) {
  const found = rows(filters);
  return found.length > 0 && html`<${Table} caption="Policies" columns=${COLUMNS} rows=${found} keyOf=${(row) => row[0]} />`;
}
