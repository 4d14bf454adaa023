// Dead letters of an AMQP upstream: look, replay, drop.
import { html, useMemo } from "../vendor/preact.js";
import { ask, usePoll } from "../app/api.js";
import { to } from "../app/router.js";
import { Asking } from "./dialog.js";
import { bytes, clock, number, word } from "./format.js";
import { Facts, Section, Title, Waiting } from "./parts.js";
import { Table } from "./table.js";

const address = (name, ...parts) => ["/amqp", encodeURIComponent(name), "dead-letters", ...parts].join("/");
const route = (it) => html`<code>${it.exchange || "(default)"} → ${it.routing_key}</code>`;

/** Do it with all that were dead when it began. */
async function withAll(name, what) {
  let query = "";
  for (;;) {
    const { next, before } = await ask(`${address(name, what)}${query}`, { method: "POST" });
    if (next === null) return;
    query = `?after=${next}&before=${before}`;
  }
}

export function Letters({ name }) {
  const poll = usePoll(address(name), 5);
  const again = poll.again;
  const columns = useMemo(() => columnsOf(name, again), [name, again]);
  const rows = poll.data?.dead_letters ?? [];
  const all = html`<span class="buttons">
    <${Asking} label="Replay all" title="Replay all dead letters" action="Replay all" disabled=${!rows.length} onConfirm=${() => withAll(name, "replay").then(again)}>
      <p>All dead letters of ${name} go into the spool again, behind what waits there. What cannot be delivered dies once more.</p>
    <//>
    <${Asking} label="Drop all" look="danger" danger=${true} title="Drop all dead letters" action="Drop all" disabled=${!rows.length} onConfirm=${() => withAll(name, "drop").then(again)}>
      <p>All dead letters of ${name} are deleted. There is no way back; <code>sidecar spool export</code> writes them to a file first.</p>
    <//>
  </span>`;
  return html`
    <${Title} beside=${all}>Dead letters of ${name}<//>
    <p><a href=${to("amqp")}>AMQP</a></p>
    <${Waiting} poll=${poll} />
    ${poll.data && html`<${Table} caption="Dead letters, the oldest first" columns=${columns} rows=${rows} keyOf=${(it) => it.id} empty="There are no dead letters." />`}
    ${poll.data?.next && html`<p class="dim">These are the oldest ${number(rows.length)}; there are more.</p>`}
  `;
}

const columnsOf = (name, again) => [
  { title: "Number", num: true, cell: (it) => it.id },
  { title: "Went to", head: true, look: "text", cell: (it) => html`<a href=${to("amqp", name, "dead-letters", String(it.id))}>${it.readable ? route(it) : "not readable any more"}</a>` },
  { title: "Died", look: "nowrap", cell: (it) => clock(it.died) },
  { title: "Reason", cell: (it) => word(it.reason) },
  { title: "Said", look: "text dim", cell: (it) => it.text },
  { title: "Tries", num: true, cell: (it) => number(it.attempts) },
  { title: "Size", num: true, cell: (it) => bytes(it.bytes) },
  { title: "Do", cell: (it) => html`<${Actions} name=${name} it=${it} then=${again} />` },
];

function Actions({ name, it, then }) {
  const act = (what) => () => ask(address(name, it.id, what), { method: "POST" }).then(then);
  return html`<span class="buttons">
    <${Asking} label="Replay" about=${`number ${it.id}`} title=${`Replay number ${it.id}`} action="Replay" disabled=${!it.readable} onConfirm=${act("replay")}>
      <p>It goes to ${route(it)} once more.</p>
    <//>
    <${Asking} label="Drop" about=${`number ${it.id}`} look="danger" danger=${true} title=${`Drop number ${it.id}`} action="Drop" onConfirm=${act("drop")}>
      <p>It is deleted. There is no way back.</p>
    <//>
  </span>`;
}

export function Letter({ name, number: id }) {
  const poll = usePoll(address(name, encodeURIComponent(id)), 0);
  const it = poll.data;
  const leave = () => {
    location.hash = to("amqp", name, "dead-letters");
  };
  const back = html`<a href=${to("amqp", name, "dead-letters")}>All dead letters</a>`;
  if (!it) return html`<${Title} beside=${back}>Dead letter ${id}<//><${Waiting} poll=${poll} />`;
  const table = (values) => Object.entries(values).map(([key, value]) => ({ key, value }));
  return html`
    <${Title} beside=${html`<${Actions} name=${name} it=${it} then=${leave} />`}>Dead letter ${id}<//>
    <p>${back}</p>
    <div class="panel cause"><p><b>${word(it.reason)}${it.code ? ` ${it.code}` : ""}</b>${it.text && `: ${it.text}`}</p><p class="dim">${route(it)} on ${it.vhost}</p></div>
    <${Facts} facts=${[["Died", clock(it.died)], ["Published", it.published ? clock(it.published) : "–"], ["Tries", number(it.attempts)], ["Size", bytes(it.body.size)], ["User", it.user || "–"]]} />
    <${Section} title="Properties"><${Table} caption="Properties" columns=${VALUES} rows=${table(it.properties)} keyOf=${(row) => row.key} /><//>
    <${Section} title="Headers"><${Table} caption="Headers" columns=${VALUES} rows=${table(it.headers)} keyOf=${(row) => row.key} /><//>
    <${Section} title=${it.body.encoding === "text" ? "Body" : "Body, as base64"}>
      <pre tabindex="0">${it.body.content}</pre>
      ${it.body.cut && html`<p class="dim">and more; an export has all of it</p>`}
    <//>
  `;
}

const VALUES = [
  { title: "Name", head: true, cell: (it) => it.key },
  { title: "Value", look: "mono", cell: (it) => (typeof it.value === "object" ? JSON.stringify(it.value) : String(it.value)) },
];
