// Requests that are stored until their upstream takes them.
import { html } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { bytes, number } from "../ui/format.js";
import { Title, Waiting } from "../ui/parts.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";

export const path = "queue";
export const title = "HTTP queue";
const queued = ({ now }) => Object.values(now?.upstreams ?? {}).filter((it) => it.queued !== null);
export const shown = (state) => queued(state).length > 0;
export const count = (state) => queued(state).reduce((sum, it) => sum + it.queued, 0);

const OUTCOMES = ["queued", "delivered", "tried", "failed", "expired", "refused", "repeated", "unknown"];
const COLUMNS = [
  { title: "Upstream", head: true, cell: (it) => html`<a href=${to("upstreams", it.name)}>${it.name}</a>` },
  { title: "Health", cell: (it) => html`<${Status} is=${it.health} />` },
  { title: "Wait now", num: true, cell: (it) => html`<b>${number(it.stats.queue.requests)}</b>` },
  { title: "On disk", num: true, cell: (it) => bytes(it.stats.queue.bytes) },
  ...OUTCOMES.map((name) => ({ title: name, num: true, cell: (it) => number(it.stats.queue.outcomes[name] ?? 0) })),
];

export function Page() {
  const poll = usePoll("/upstreams", 3);
  const rows = (poll.data?.upstreams ?? []).filter((it) => it.stats.queue);
  return html`<${Title}>HTTP queue<//>
    <${Waiting} poll=${poll} />
    ${poll.data &&
    html`<${Table} caption="Upstreams whose requests may be queued" columns=${COLUMNS} rows=${rows} keyOf=${(it) => it.name} empty="No upstream has a queue." />
      ${rows.length > 0 && html`<p class="dim">All but the first two numbers count since the start: stored; delivered; tried, and to be tried again; failed for good; too late; refused for lack of room; known already by their key; lost sight of when the disk failed.</p>`}`}`;
}
