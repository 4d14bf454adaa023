// Drawings of what GET /history tells: lines as SVG, the heat map as a canvas with one pixel for each of its cells.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { clock, ms, number } from "./format.js";

/** The `q` quantile of counts in buckets, interpolated within its bucket; null when there is nothing. */
export function quantile(counts, bounds, q) {
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (!all) return null;
  let seen = 0;
  let lower = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (counts[i] && seen + counts[i] >= q * all) return lower + ((bounds[i] - lower) * (q * all - seen)) / counts[i];
    seen += counts[i];
    lower = bounds[i];
  }
  return lower;
}

/** A number at or above `n` with a short name: 1, 2 or 5 times a power of ten. */
function ceiling(n) {
  if (!(n > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(n));
  return unit * [1, 2, 5, 10].find((step) => step * unit >= n);
}

/** Lines over time: `series` is [{name, look, values, area}], values null where there is none, the newest last. */
export function Lines({ title, series, slots, format, from, to }) {
  const top = ceiling(Math.max(0, ...series.flatMap((it) => it.values.filter((n) => n !== null))));
  const now = (it) => it.values.at(-1) ?? null;
  const says = series.map((it) => `${it.name} ${format(now(it))}`).join(", ");
  return html`<figure class="chart">
    <figcaption>
      <span>${title}</span>
      <span class="legend">
        ${series.map((it) => html`<span key=${it.name}><i class=${`key ${it.look}`} aria-hidden="true"></i>${it.name} <b>${format(now(it))}</b></span>`)}
      </span>
    </figcaption>
    <div class="plot">
      <span class="top" aria-hidden="true">${format(top)}</span>
      <svg viewBox=${`0 0 ${slots - 1} 100`} preserveAspectRatio="none" role="img" aria-label=${`${title}: now ${says}`}>
        <path class="grid" d=${`M0 50H${slots - 1}M0 99.5H${slots - 1}M0 .5H${slots - 1}`} />
        ${series.map((it) => it.area && html`<path key=${`${it.name} area`} class=${`area ${it.look}`} d=${path(it.values, slots, top, true)} />`)}
        ${series.map((it) => html`<path key=${it.name} class=${`stroke ${it.look}`} d=${path(it.values, slots, top, false)} />`)}
      </svg>
    </div>
    <${Times} from=${from} to=${to} />
  </figure>`;
}

function path(values, slots, top, closed) {
  let d = "";
  let start = null;
  values.forEach((n, i) => {
    const x = slots - values.length + i;
    if (n === null) {
      if (closed && start !== null) d += `L${x - 1} 100L${start} 100Z`;
      start = null;
      return;
    }
    d += `${start === null ? "M" : "L"}${x} ${(99.5 - (n / top) * 98).toFixed(1)}`;
    if (start === null) {
      start = x;
      if (!closed && (values[i + 1] ?? null) === null) d += "h.01";
    }
  });
  if (closed && start !== null) d += `L${slots - 1} 100L${start} 100Z`;
  return d;
}

function Times({ from, to }) {
  return html`<div class="times" aria-hidden="true"><span>${from}</span><span>${to}</span></div>`;
}

/** How long answers took, over time: the darker a cell, the more took so long then. */
export function HeatMap({ columns, bounds, slots, from, to }) {
  const canvas = useRef(null);
  const [at, setAt] = useState(null);
  const dark = useScheme();
  const used = range(columns, bounds.length + 1);
  const rows = used[1] - used[0] + 1;
  useEffect(() => draw(canvas.current, columns, used, slots), [columns, slots, dark]);
  const label = (bucket) => (bucket < bounds.length ? `≤ ${ms(bounds[bucket])}` : `> ${ms(bounds.at(-1))}`);
  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * slots) - (slots - columns.length);
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    setAt(columns[column] ? { column: columns[column], bucket: used[1] - row } : null);
  };
  const says = at
    ? `${clock(at.column.at * 1000)} · ${label(at.bucket)}: ${number(at.column.counts[at.bucket])} of ${number(at.column.counts.reduce((a, b) => a + b, 0))}`
    : "the darker, the more";
  const marks = [used[1], Math.round((used[0] + used[1]) / 2), used[0]];
  return html`<figure class="chart heat">
    <figcaption><span>Answers by time taken</span><span class="legend">${says}</span></figcaption>
    <div class="plot">
      <div class="marks" aria-hidden="true">${marks.map((bucket) => html`<span key=${bucket}>${label(bucket)}</span>`)}</div>
      <canvas
        ref=${canvas}
        width=${slots}
        height=${rows}
        role="img"
        aria-label="Latency heat map; the table below says the same"
        onPointerMove=${point}
        onPointerLeave=${() => setAt(null)}
      ></canvas>
    </div>
    <${Times} from=${from} to=${to} />
  </figure>`;
}

/** The first and last bucket to show: those that are in use, and enough of them for a picture. */
function range(columns, buckets) {
  let low = buckets;
  let high = -1;
  for (const { counts } of columns) {
    for (let i = 0; i < buckets; i++) {
      if (counts[i]) {
        low = Math.min(low, i);
        high = Math.max(high, i);
      }
    }
  }
  if (high < 0) return [0, 8];
  low = Math.max(0, low - 1);
  high = Math.min(buckets - 1, Math.max(high + 1, low + 7));
  return [Math.min(low, high - 7), high];
}

function draw(canvas, columns, [low, high], slots) {
  const context = canvas.getContext("2d");
  const most = Math.max(1, ...columns.flatMap((it) => it.counts));
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(canvas).color;
  columns.forEach(({ counts }, i) => {
    for (let bucket = low; bucket <= high; bucket++) {
      if (!counts[bucket]) continue;
      context.globalAlpha = 0.12 + 0.88 * Math.sqrt(counts[bucket] / most);
      context.fillRect(slots - columns.length + i, high - bucket, 1, 1);
    }
  });
}

/** Whether the page is dark; what is drawn with its colours is drawn again when that changes. */
function useScheme() {
  const [dark, setDark] = useState(matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setDark(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, []);
  return dark;
}

/** Requests and latencies a minute, for those who do not see pictures. */
export function byMinute(columns, bounds, period) {
  const found = [];
  const each = Math.round(60 / period);
  for (let end = columns.length; end > 0; end -= each) {
    const part = columns.slice(Math.max(0, end - each), end);
    const counts = part[0].counts.map((_, i) => part.reduce((sum, it) => sum + it.counts[i], 0));
    const requests = part.reduce((sum, it) => sum + it.requests, 0);
    const errors = part.reduce((sum, it) => sum + it.errors, 0);
    const [p50, p95, p99] = [0.5, 0.95, 0.99].map((q) => quantile(counts, bounds, q));
    found.push({ at: part.at(-1).at, requests, errors, p50, p95, p99 });
  }
  return found;
}

