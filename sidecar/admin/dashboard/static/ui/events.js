// What has changed about the sidecar, the newest first.
import { html, useMemo } from "../vendor/preact.js";
import { to } from "../app/router.js";
import { useStore } from "../app/store.js";
import { clock, timely, word } from "./format.js";
import { Table } from "./table.js";

const LEVELS = { warning: ["▲", "warn"], error: ["■", "bad"], critical: ["■", "bad"] };

const COLUMNS = [
  { title: "When", look: "dim nowrap", cell: (it) => html`<time datetime=${it.at}>${clock(it.at)}</time>` },
  { title: "Kind", cell: (it) => html`<span class=${`status ${LEVELS[it.level]?.[1] ?? "dim"}`}><i aria-hidden="true">${LEVELS[it.level]?.[0] ?? "○"}</i>${word(it.kind)}</span>` },
  { title: "Upstream", cell: (it) => it.upstream && html`<a href=${to("upstreams", it.upstream)}>${it.upstream}</a>` },
  { title: "What", look: "text", cell: (it) => timely(it.text) },
];

/** Those of `upstream` and `kinds`, if they are given. */
export function Events({ most, upstream, kinds }) {
  const events = useStore((it) => it.events);
  const rows = useMemo(
    () =>
      events
        .filter((it) => (upstream === undefined || it.upstream === upstream) && (!kinds || kinds.includes(it.kind)))
        .slice(0, most),
    [events, upstream, kinds, most],
  );
  return html`<${Table} caption="Changes, the newest first" columns=${COLUMNS} rows=${rows} keyOf=${(it) => `${it.id} ${it.at}`} empty="Nothing has changed since the start." />`;
}
