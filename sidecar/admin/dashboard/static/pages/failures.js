// Requests that did not go well: by their causes, and each with its story.
import { html, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { clock, ms, number, word } from "../ui/format.js";
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

function grouped(requests) {
  const groups = new Map();
  for (const it of requests) {
    const key = keyOf(it);
    const group = groups.get(key);
    if (group) {
      group.count++;
      group.first = it.began;
    } else groups.set(key, { key, count: 1, newest: it, first: it.began });
  }
  return [...groups.values()].sort((a, b) => b.count - a.count);
}

export const Code = ({ it }) => html`<code>${it.error ? word(it.error) : (it.status ?? "")}</code>`;

const What = ({ it }) =>
  it.kind === "message"
    ? html`<code>${it.exchange || "(default)"} ${it.routing_key ?? ""}</code>`
    : html`<code>${it.method ?? it.protocol ?? ""} ${it.path ?? ""}</code>`;

const REQUESTS = [
  { title: "Began", look: "dim nowrap", cell: (it) => clock(it.began) },
  { title: "What", head: true, look: "text", cell: (it) => html`<a href=${to("failures", it.request_id)}><${What} it=${it} /></a>` },
  { title: "Upstream", cell: (it) => (it.direction === "inbound" ? html`<span class="dim">in, </span>${it.upstream}` : it.upstream) },
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
  const groups = useMemo(() => grouped(requests ?? []), [requests]);
  const columns = useMemo(
    () => [
      { title: "Count", num: true, cell: (it) => html`<b>${number(it.count)}</b>` },
      { title: "Cause", head: true, look: "text", cell: (it) => html`<a href=${to("failures", it.newest.request_id)}>${it.newest.cause || "not known"}</a>` },
      { title: "Upstream", cell: (it) => it.newest.upstream },
      { title: "Code", cell: (it) => html`<${Code} it=${it.newest} />` },
      { title: "Setting", look: "mono dim", cell: (it) => it.newest.setting },
      { title: "Last", look: "dim nowrap", cell: (it) => clock(it.newest.began) },
      {
        title: "Requests",
        cell: (it) => html`<button class="quiet" aria-pressed=${chosen === it.key} aria-label=${`Only the ${it.count} of ${it.newest.upstream}`} onClick=${() => choose(chosen === it.key ? null : it.key)}>Only these</button>`,
      },
    ],
    [chosen],
  );
  if (!requests) return html`<${Title}>Failures<//><${Waiting} poll=${poll} />`;
  const listed = chosen === null ? requests : requests.filter((it) => keyOf(it) === chosen);
  return html`
    <${Title} beside=${html`<span class="dim">the newest ${number(requests.length)} of ${number(poll.data.remembered)} that are remembered</span>`}>Failures<//>
    <${Waiting} poll=${poll} />
    <${Table} caption="Causes, the most frequent first" columns=${columns} rows=${groups} keyOf=${(it) => it.key} empty="Nothing has failed of late." />
    ${requests.length > 0 &&
    html`<${Section} title="Requests" beside=${chosen !== null && html`<button onClick=${() => choose(null)}>Show all</button>`}>
      <${Table} caption="Requests, the newest first" columns=${REQUESTS} rows=${listed.slice(0, SHOWN)} keyOf=${(it) => `${it.request_id} ${it.upstream} ${it.began}`} />
      ${listed.length > SHOWN && html`<p class="dim">and ${number(listed.length - SHOWN)} more</p>`}
    <//>`}
  `;
}
