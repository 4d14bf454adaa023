// AMQP ports: who is connected, what is held and why, queues, the spool and its dead letters.
import { html } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { Letter, Letters } from "../ui/letters.js";
import { bytes, number, seconds, word } from "../ui/format.js";
import { Facts, Section, Title, Troubles, Waiting } from "../ui/parts.js";
import { Status } from "../ui/status.js";
import { Table } from "../ui/table.js";

export const path = "amqp";
export const title = "AMQP";
export const shown = ({ now }) => Object.values(now?.upstreams ?? {}).some((it) => it.protocol === "amqp");

export function Page({ rest }) {
  const [name, , number] = rest;
  if (number) return html`<${Letter} name=${name} number=${number} />`;
  if (name) return html`<${Letters} name=${name} />`;
  return html`<${Ports} />`;
}

function Ports() {
  const poll = usePoll("/amqp", 2);
  return html`<${Title}>AMQP<//><${Waiting} poll=${poll} />
    ${poll.data?.upstreams.length === 0 && html`<p class="empty">No upstream of this sidecar speaks AMQP.</p>`}
    ${poll.data?.upstreams.map((it) => html`<${Port} key=${it.name} it=${it} />`)}`;
}

const table = (title, columns, rows, keyOf, empty) =>
  (rows.length > 0 || empty) && html`<h3>${title}</h3><${Table} caption=${title} columns=${columns} rows=${rows} keyOf=${keyOf} empty=${empty} />`;

function Port({ it }) {
  const troubles = [
    ...Object.entries(it.refusing).map(([reason, words]) => ["down", `refuses: ${word(reason)}`, words]),
    ...(it.blocked ? [["warning", "alarm", `the broker takes no publishes; ${seconds(it.blocked_seconds)} of that so far`]] : []),
    ...(it.paused ? [["warning", "paused", "consumers get no new deliveries while the app is unwell"]] : []),
  ];
  return html`<${Section} title=${it.name} beside=${html`<a href=${to("upstreams", it.name)}>Its broker</a>`}>
    ${troubles.length > 0 && html`<${Troubles} troubles=${troubles} />`}
    <div class="card">
      <${Facts}
        facts=${[
          ["Connections", number(it.connections), it.detached > 0 && `${number(it.detached)} without a broker`],
          ["Channels", number(it.channels)],
          ["Consumers", number(it.consumers)],
          ["Unacked", number(it.unacked)],
          ["Delivered", number(it.delivered)],
          ["Held", number(it.held.messages), it.held.messages > 0 && bytes(it.held.bytes)],
          it.spool && ["Spool", number(it.spool.messages), it.spool.messages > 0 && bytes(it.spool.bytes)],
          it.spool && ["Dead letters", number(it.spool.dead_letters.messages)],
        ]}
      />
    </div>
    ${table("Held, and why", HELD, it.held.waiting_for, (row) => row.what)}
    ${it.spool && html`<${Spool} name=${it.name} it=${it.spool} />`}
    ${table("Queues", QUEUES, it.queues, (row) => `${row.vhost} ${row.queue}`)}
    ${table("Exchanges", EXCHANGES, it.exchanges, (row) => `${row.vhost} ${row.exchange}`)}
    ${table("Connections", SESSIONS, it.sessions, (row) => row.client, "No client is connected.")}
  <//>`;
}

function Spool({ name, it }) {
  const dead = it.dead_letters;
  const reasons = Object.entries(dead.reasons);
  const state = it.problem ? ["down", it.problem] : it.full ? ["warning", "full: it takes no more"] : ["up", "works"];
  return html`
    <h3>Spool</h3>
    <div class="panel">
      <p><${Status} is=${state[0]} says=${state[1]} /> <span class="dim">${bytes(it.bytes)} of ${bytes(it.max_bytes)} in use${it.messages > 0 && it.still_seconds > 0 && ` · nothing has left it for ${seconds(it.still_seconds)}`}</span></p>
      <p class="dim">Since the start: ${number(it.spooled)} came in, ${number(it.replayed)} went on to the broker, ${number(it.expired)} expired, ${number(it.corrupt)} were damaged.</p>
      ${it.obstacles.map((row) => html`<p key=${`${row.vhost} ${row.user}`}>▲ ${row.user || "any user"} on ${row.vhost}: ${row.problem}</p>`)}
      <p>
        <b>${number(dead.messages)}</b> dead letters${reasons.length > 0 && html`<span class="dim"> (${reasons.map(([reason, n]) => `${word(reason)} ${number(n)}`).join(", ")})</span>`}${" "}
        <a href=${to("amqp", name, "dead-letters")}>Look at them</a>
      </p>
    </div>
    ${table("Waiting in the spool", WAITING, it.waiting, (row) => `${row.vhost} ${row.lane}`)}
  `;
}

const HELD = [
  { title: "Waiting for", head: true, look: "text", cell: (it) => it.what },
  { title: "Messages", num: true, cell: (it) => number(it.messages) },
];
const WAITING = [
  { title: "Lane", head: true, look: "text", cell: (it) => it.lane },
  { title: "Virtual host", cell: (it) => it.vhost },
  { title: "Messages", num: true, cell: (it) => number(it.messages) },
  { title: "Size", num: true, cell: (it) => bytes(it.bytes) },
];
const QUEUES = [
  { title: "Queue", head: true, look: "text", cell: (it) => it.queue },
  { title: "Virtual host", cell: (it) => it.vhost },
  { title: "State", cell: (it) => html`<${Status} is=${it.problem ? "failing" : it.full ? "warning" : "up"} says=${it.problem || (it.full ? "full" : "room")} />` },
  { title: "Depth", num: true, cell: (it) => number(it.depth) },
  { title: "High", num: true, cell: (it) => number(it.high) },
  { title: "Low", num: true, cell: (it) => number(it.low) },
  { title: "Consumers", num: true, cell: (it) => number(it.consumers) },
];
const EXCHANGES = [
  { title: "Exchange", head: true, look: "text", cell: (it) => it.exchange || html`<span class="dim">(default)</span>` },
  { title: "Virtual host", cell: (it) => it.vhost },
  ...["published", "forwarded", "confirmed", "nacked", "refused", "returned"].map((name) => ({ title: name, num: true, cell: (it) => number(it[name]) })),
  { title: "held now", num: true, cell: (it) => number(it.held_messages) },
];
const SESSIONS = [
  { title: "Client", head: true, cell: (it) => it.client },
  { title: "Calls itself", look: "text dim", cell: (it) => it.product },
  { title: "User", cell: (it) => `${it.user}@${it.vhost}` },
  { title: "Broker", look: "mono", cell: (it) => it.endpoint || html`<${Status} is="waiting" says="none" />` },
  { title: "For", num: true, cell: (it) => seconds(it.since) },
  { title: "Channels", num: true, cell: (it) => number(it.channels) },
  { title: "Consumers", num: true, cell: (it) => number(it.consumers) },
  { title: "Unacked", num: true, cell: (it) => number(it.unacked) },
  { title: "Held", num: true, cell: (it) => number(it.held) },
];
