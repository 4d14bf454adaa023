// Requests that did not go well: by their causes, and each with its story.
import { html, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { clock, ms, number, timely, word } from "../ui/format.js";
import { Section, Title, Waiting } from "../ui/parts.js";
import { Story } from "../ui/story.js";
import { Table } from "../ui/table.js";

export const path = "failures";
export const title = "Failures";

const SHOWN = 30;

export const Page = ({ rest }) => (rest.length ? html`<${Story} id=${rest[0]} />` : html`<${Recent} />`);

/** Whether it did not simply go well. Samples of those that did are remembered, too. */
const failed = (it) => Boolean(it.error) || (it.status ?? 200) >= 400 || it.status === 0 || it.attempts > 1;

/** What makes two failures the same: all but the numbers of their cause. */
const keyOf = (it) => [it.direction, it.upstream, it.error ?? it.status, (it.cause ?? "").replace(/[\d.:]+( (ms|s|min|h)\b)?/g, "#")].join("\n");

/** Whether it only follows from failures before, and is told after those: a breaker that has opened by itself. */
const follows = (it) => it.error === "circuit_open" && Boolean(it.setting);

/** One request fails twice: on its way out, and so on its way in, which says nothing new. [requests without those, how many by the id of the way out] */
function paired(requests) {
  const out = new Set(requests.filter((it) => it.direction === "outbound").map((it) => it.request_id));
  const twins = new Set();
  const kept = requests.filter((it) => {
    if (it.direction !== "inbound" || !out.has(it.request_id)) return true;
    twins.add(it.request_id);
    return false;
  });
  return { kept, twins };
}

/** Failures with less than that between them are one outbreak. */
const OUTBREAK_MS = 60_000;

function grouped({ kept, twins }) {
  const groups = new Map();
  for (const it of kept) {
    const key = keyOf(it);
    let group = groups.get(key);
    if (!group) groups.set(key, (group = { key, count: 0, twins: 0, newest: it, oldest: it, follows: follows(it) }));
    group.count++;
    if (twins.has(it.request_id)) group.twins++;
    // Where this outbreak began: before breakers opened, and hid what opened them.
    if (new Date(group.oldest.began) - new Date(it.began) < OUTBREAK_MS) group.oldest = it;
  }
  return [...groups.values()].sort((a, b) => a.follows - b.follows || b.count - a.count);
}

export const Code = ({ it }) => html`<code>${it.error ? word(it.error) : (it.status ?? "")}</code>`;

const What = ({ it }) =>
  it.kind === "message"
    ? html`<code>${it.exchange || "(default)"} ${it.routing_key ?? ""}</code>`
    : html`<code>${it.method ?? it.protocol ?? ""} ${it.path ?? ""}</code>`;

const Where = ({ it }) => (it.direction === "inbound" ? html`<span class="dim">in, </span>${it.upstream}` : it.upstream);

const REQUESTS = [
  { title: "Began", look: "dim nowrap", cell: (it) => clock(it.began) },
  { title: "What", head: true, look: "text", cell: (it) => html`<a href=${to("failures", it.request_id)}><${What} it=${it} /></a>` },
  { title: "Upstream", cell: (it) => html`<${Where} it=${it} />` },
  { title: "Status", num: true, cell: (it) => it.status ?? "" },
  { title: "Code", cell: (it) => html`<${Code} it=${it} />` },
  { title: "Tries", num: true, cell: (it) => number(it.attempts) },
  { title: "Took", num: true, cell: (it) => ms(it.duration_ms) },
];

function Recent() {
  const poll = usePoll("/why?limit=500", 4);
  const [chosen, choose] = useState(null);
  const data = poll.data;
  const requests = useMemo(() => data?.requests.filter(failed), [data]);
  const pairs = useMemo(() => paired(requests ?? []), [requests]);
  const groups = useMemo(() => grouped(pairs), [pairs]);
  const columns = useMemo(
    () => [
      { title: "Count", num: true, cell: (it) => html`<b>${number(it.count)}</b>` },
      { title: "Cause", head: true, look: "text", cell: (it) => html`${it.follows && html`<span class="tag">follows</span> `}<a href=${to("failures", it.oldest.request_id)}>${timely(it.oldest.cause) || "not known"}</a>` },
      { title: "Upstream", cell: (it) => html`<${Where} it=${it.newest} />${it.twins > 0 && html`<small class="note">${number(it.twins)} came in and failed with it</small>`}` },
      { title: "Code", cell: (it) => html`<${Code} it=${it.newest} />` },
      { title: "Setting", look: "mono dim", late: true, cell: (it) => it.newest.setting },
      { title: "Last", look: "nowrap", cell: (it) => html`<a href=${to("failures", it.newest.request_id)} aria-label=${`The last one, at ${clock(it.newest.began)}`}>${clock(it.newest.began)}</a>` },
      {
        title: "Requests",
        cell: (it) => html`<button class="quiet" aria-pressed=${chosen === it.key} aria-label=${`Only the ${it.count} of ${it.newest.upstream}`} onClick=${() => choose(chosen === it.key ? null : it.key)}>Only these</button>`,
      },
    ],
    [chosen],
  );
  if (!requests) return html`<${Title}>Failures<//><${Waiting} poll=${poll} />`;
  const listed = chosen === null ? pairs.kept : pairs.kept.filter((it) => keyOf(it) === chosen);
  return html`
    <${Title} beside=${html`<span class="dim">the newest ${number(requests.length)} of ${number(poll.data.remembered)} that are remembered</span>`}>Failures<//>
    <${Waiting} poll=${poll} />
    <${Table} caption="Causes, the most frequent first; then what follows from them" columns=${columns} rows=${groups} keyOf=${(it) => it.key} empty="Nothing has failed of late." />
    ${requests.length > 0 &&
    html`<${Section} title="Requests" beside=${chosen !== null && html`<button onClick=${() => choose(null)}>Show all</button>`}>
      <${Table} caption="Requests, the newest first" columns=${REQUESTS} rows=${listed.slice(0, SHOWN)} keyOf=${(it) => `${it.request_id} ${it.upstream} ${it.began}`} />
      ${listed.length > SHOWN && html`<p class="dim">and ${number(listed.length - SHOWN)} more</p>`}
    <//>`}
  `;
}
