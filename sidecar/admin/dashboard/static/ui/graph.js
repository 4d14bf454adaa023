// The graph of a mesh, left to right. It is laid out only when nodes or edges come or go, so it stands still.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { ms, percent, rate, timely, word } from "./format.js";

const HEIGHT = 24;
const LONGEST = 24;
const SMALLEST = 0.66; // fitted to the width, names can still be read
const STEP = 1.3;
const CROWD = 60; // from so many calls on, those that are well are drawn faintly
const SHAPE = { warning: "▲", unhealthy: "■", not_answering: "✕" };
const LOOK = { warning: "warn", unhealthy: "bad", not_answering: "bad" };

const cut = (name) => (name.length > LONGEST ? `${name.slice(0, LONGEST - 1)}…` : name);
const figures = (it) =>
  it.rate === null || it.rate === undefined ? "" : `${rate(it.rate)}, errors ${percent(it.error_rate)}, p50 ${ms(it.p50_ms)}, p99 ${ms(it.p99_ms)}`;
const told = (it) => [word(it.status), figures(it), timely(it.problem)].filter(Boolean).join(", ");

/** Where everything is: {width, height, nodes: name → {x, y, width}, lines: [{from, to, d}]}. */
function layout(dagre, names, pairs) {
  const graph = new dagre.Graph();
  graph.setGraph({ rankdir: "LR", ranker: "tight-tree", nodesep: 7, ranksep: 44, edgesep: 6, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  // Numbers for names: a name may be one that an object has anyway.
  const number = new Map(names.map((name, at) => [name, `n${at}`]));
  for (const [name, id] of number) graph.setNode(id, { width: cut(name).length * 7.6 + 38, height: HEIGHT });
  for (const [from, to] of pairs) graph.setEdge(number.get(from), number.get(to), {});
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    width,
    height,
    nodes: new Map(names.map((name) => [name, graph.node(number.get(name))])),
    lines: pairs.map(([from, to]) => ({ from, to, d: curve(graph.edge(number.get(from), number.get(to)).points) })),
  };
}

function curve(points) {
  const [first, ...rest] = points;
  let d = `M${first.x},${first.y}`;
  for (let at = 0; at < rest.length - 1; at++) {
    const [it, next] = [rest[at], rest[at + 1]];
    d += ` Q${it.x},${it.y} ${(it.x + next.x) / 2},${(it.y + next.y) / 2}`;
  }
  const last = rest[rest.length - 1] ?? first;
  return `${d} L${last.x},${last.y}`;
}

const FROM = (it) => it.from;
const TO = (it) => it.to;

/** All that leads to a node, and all that it leads to. */
function path(name, edges) {
  const found = new Set([name]);
  for (const [start, end] of [[FROM, TO], [TO, FROM]]) {
    const way = [name];
    const seen = new Set(way);
    while (way.length) {
      const at = way.pop();
      for (const it of edges) {
        if (start(it) === at && !seen.has(end(it))) {
          seen.add(end(it));
          found.add(end(it));
          way.push(end(it));
        }
      }
    }
  }
  return found;
}

/** How large the graph's window is, as long as it is there. */
function useSize(window) {
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const watcher = new ResizeObserver(([it]) => setSize({ width: it.contentRect.width, height: it.contentRect.height }));
    watcher.observe(window.current);
    return () => watcher.disconnect();
  }, []);
  return size;
}

/** The scale at which `plan` is drawn: `zoom` is "width", "all", or a scale. */
function scaled(zoom, plan, size) {
  if (typeof zoom === "number") return zoom;
  const across = size.width ? size.width / plan.width : 1;
  if (zoom === "width") return Math.max(SMALLEST, Math.min(1, across));
  return Math.min(1, across, (innerHeight * 0.7) / plan.height);
}

/** `links(service)`: what leads to its own dashboards. */
export function Graph({ dagre, services, edges, links }) {
  const [at, setAt] = useState(null);
  const [pinned, pin] = useState(null);
  const [zoom, setZoom] = useState("width");
  const box = useRef(null);
  const size = useSize(box);
  const names = services.map((it) => it.name).sort();
  const there = new Set(names);
  const drawn = edges.filter((it) => there.has(it.from) && there.has(it.to) && it.from !== it.to);
  const pairs = drawn.map((it) => [it.from, it.to]).sort();
  const key = JSON.stringify([names, pairs]);
  const plan = useMemo(() => layout(dagre, names, pairs), [dagre, key]);
  const scale = scaled(zoom, plan, size);
  const looked = at ?? pinned;
  const lit = looked === null || !there.has(looked) ? null : path(looked, drawn);
  const byPair = new Map(drawn.map((it) => [JSON.stringify([it.from, it.to]), it]));
  const byName = new Map(services.map((it) => [it.name, it]));
  const line = ({ from, to, d }) => {
    const it = byPair.get(JSON.stringify([from, to]));
    if (!it) return null;
    const on = lit && lit.has(from) && lit.has(to);
    const look = ["edge", LOOK[it.status] ?? "", it.silent ? "silent" : "", lit ? (on ? "lit" : "faint") : ""].join(" ");
    return html`<path key=${JSON.stringify([from, to])} class=${look} d=${d}><title>${`${from} → ${to}: ${told(it)}`}</title></path>`;
  };
  const node = (name) => {
    const it = byName.get(name);
    const { x, y, width } = plan.nodes.get(name);
    const look = ["node", LOOK[it.status] ?? "", it.kind, lit ? (lit.has(name) ? "lit" : "faint") : "", name === pinned ? "pinned" : ""].join(" ");
    const press = (event) => {
      if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      pin(name === pinned ? null : name);
    };
    return html`<g key=${name} class=${look} tabindex="0" role="button" aria-pressed=${name === pinned} aria-label=${`${name}: ${told(it)}`}
      transform=${`translate(${x - width / 2},${y - HEIGHT / 2})`} onClick=${press} onKeyDown=${press}
      onMouseEnter=${() => setAt(name)} onMouseLeave=${() => setAt(null)} onFocus=${() => setAt(name)} onBlur=${() => setAt(null)}>
      <rect width=${width} height=${HEIGHT} rx=${it.kind === "service" ? 5 : 12} />
      <text x="10" y="16">${SHAPE[it.status] ? `${SHAPE[it.status]} ` : ""}${cut(name)}</text>
    </g>`;
  };
  return html`<div class="zoom" role="group" aria-label="Size of the graph">
      <button aria-pressed=${zoom === "width"} onClick=${() => setZoom("width")}>Fit the width</button>
      <button aria-pressed=${zoom === "all"} onClick=${() => setZoom("all")}>Show all of it</button>
      <button aria-label="Smaller" onClick=${() => setZoom(Math.max(0.2, scale / STEP))}>−</button>
      <button aria-label="Larger" onClick=${() => setZoom(Math.min(3, scale * STEP))}>+</button>
    </div>
    <div class="scroll graph" role="region" aria-label="Graph of the mesh" tabindex="0">
      <div ref=${box}>
        <svg class=${drawn.length > CROWD ? "crowd" : ""} width=${plan.width * scale} height=${plan.height * scale} viewBox=${`0 0 ${plan.width} ${plan.height}`} role="group" aria-label="Services and their calls">
          ${plan.lines.map(line)}${names.map(node)}
        </svg>
      </div>
    </div>
    <${Near} it=${byName.get(looked)} edges=${drawn.filter((it) => it.from === looked || it.to === looked)} links=${links} />`;
}

/** The figures of what is pointed at. It keeps its place when there is nothing. */
function Near({ it, edges, links }) {
  const worst = [...edges].sort((a, b) => (LOOK[b.status] ? 1 : 0) - (LOOK[a.status] ? 1 : 0) || (b.rate ?? 0) - (a.rate ?? 0));
  return html`<div class="near" aria-live="polite">${it
    ? html`<p><strong>${it.name}</strong> ${told(it)} ${links(it)}</p>
        ${worst.slice(0, 4).map((edge) => html`<div key=${`${edge.from} ${edge.to}`}>${edge.from} → ${edge.to}: ${told(edge)}</div>`)}
        ${worst.length > 4 && html`<div>and ${worst.length - 4} more, in the table below</div>`}`
    : html`<p>Point at a service for its figures; press it to keep them, with the way to its dashboard. ▲ a warning, ■ unhealthy, ✕ does not answer; round: has no
        sidecar; dashed: nothing has passed.</p>`}</div>`;
}
