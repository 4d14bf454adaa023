// The last 15 minutes of a listener: requests, latencies, heat map, and all of it as a table.
import { html, useMemo } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { byMinute, HeatMap, Lines, quantile } from "./charts.js";
import { clock, ms, number, percent, rate } from "./format.js";
import { Waiting } from "./parts.js";
import { Table } from "./table.js";

const SLOTS = 90;

const COLUMNS = [
  { title: "until", head: true, cell: (it) => clock(it.at * 1000) },
  { title: "requests", num: true, cell: (it) => number(it.requests) },
  { title: "errors", num: true, cell: (it) => percent(it.requests ? it.errors / it.requests : null) },
  { title: "p50", num: true, cell: (it) => ms(it.p50) },
  { title: "p95", num: true, cell: (it) => ms(it.p95) },
  { title: "p99", num: true, cell: (it) => ms(it.p99) },
];

/** `of`: inbound, outbound or the name of an upstream. */
export function Past({ of }) {
  const poll = usePoll(`/history?of=${encodeURIComponent(of)}`, 10);
  const data = poll.data;
  const drawn = useMemo(() => data && prepared(data), [data]);
  if (!drawn) return html`<${Waiting} poll=${poll} />`;
  const times = { slots: SLOTS, from: "15 min ago", to: "now" };
  return html`
    <div class="charts">
      <${Lines} title="Requests" format=${rate} series=${drawn.requests} ...${times} />
      <${Lines} title="Latency" format=${ms} series=${drawn.latency} ...${times} />
      <${HeatMap} columns=${data.columns} bounds=${data.bounds_ms} ...${times} />
    </div>
    <details>
      <summary>The same as a table</summary>
      <${Table} caption="The last 15 minutes, a minute each" columns=${COLUMNS} rows=${drawn.minutes} keyOf=${(it) => it.at} empty="Nothing yet: the first column comes within ten seconds." />
    </details>
  `;
}

function prepared({ columns, bounds_ms: bounds, period_s: period }) {
  const line = (q) => columns.map((it) => quantile(it.counts, bounds, q));
  return {
    requests: [
      { name: "all", look: "one", area: true, values: columns.map((it) => it.requests / period) },
      { name: "errors", look: "bad", area: true, values: columns.map((it) => it.errors / period) },
    ],
    latency: [
      { name: "p99", look: "three", values: line(0.99) },
      { name: "p95", look: "two", values: line(0.95) },
      { name: "p50", look: "one", values: line(0.5) },
    ],
    minutes: byMinute(columns, bounds, period),
  };
}
