// Requests that are stored until their upstream takes them.
import { html } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { useStore } from "../app/store.js";
import { bytes, number, timely } from "../ui/format.js";
import { Title, Waiting } from "../ui/parts.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";

export const path = "queue";
export const title = "HTTP queue";
const queued = ({ now }) => Object.values(now?.upstreams ?? {}).filter((it) => it.queued !== null);
export const shown = (state) => queued(state).length > 0;
export const count = (state) => queued(state).reduce((sum, it) => sum + it.queued, 0);

const OUTCOMES = { queued: "Stored", delivered: "Delivered", tried: "Tried", failed: "Failed", expired: "Too late", refused: "Refused", repeated: "Known", unknown: "Lost" };
const LOSSES = new Set(["failed", "expired", "unknown"]);
const outcome = (name, n) => html`<span class=${n && LOSSES.has(name) ? "bad" : n ? undefined : "dim"}>${number(n)}</span>`;

const COLUMNS = [
  { title: "Upstream", head: true, cell: (it) => html`<a href=${to("upstreams", it.name)}>${it.name}</a>` },
  { title: "Health", cell: (it) => html`<${Status} is=${it.health} />` },
  { title: "Wait now", num: true, cell: (it) => html`<b>${number(it.stats.queue.requests)}</b>` },
  { title: "On disk", num: true, cell: (it) => bytes(it.stats.queue.bytes) },
  { title: "Why", look: "why", late: true, cell: (it) => (it.health === "healthy" ? "" : timely(it.output)) },
  ...Object.entries(OUTCOMES).map(([name, title]) => ({ title, num: true, cell: (it) => outcome(name, it.stats.queue.outcomes[name] ?? 0) })),
];

export function Page() {
  const poll = usePoll("/upstreams", 3);
  const now = useStore((it) => it.now?.upstreams);
  const rows = (poll.data?.upstreams ?? []).filter((it) => it.stats.queue).map((it) => ({ ...it, output: now?.[it.name]?.output }));
  return html`<${Title}>HTTP queue<//>
    <${Waiting} poll=${poll} />
    ${poll.data &&
    html`<${Table} caption="Upstreams whose requests may be queued" columns=${COLUMNS} rows=${rows} keyOf=${(it) => it.name} empty="No upstream has a queue." />
      ${rows.length > 0 && html`<p class="dim">From Stored on, all numbers count since the start. Tried: without success, and to be tried again. Failed, too late, lost (when the disk failed): these were not delivered. Refused: there was no room. Known: by their key, stored before.</p>`}`}`;
}
