// The graph of a mesh, left to right. It is laid out only when nodes or edges come or go, so it stands still.
import { html, useMemo, useState } from "../vendor/preact.js";
import { ms, percent, rate, word } from "./format.js";

const HEIGHT = 26;
const LONGEST = 24;
const SHAPE = { warning: "▲", unhealthy: "■", not_answering: "✕" };
const LOOK = { warning: "warn", unhealthy: "bad", not_answering: "bad" };

const cut = (name) => (name.length > LONGEST ? `${name.slice(0, LONGEST - 1)}…` : name);
const figures = (it) => `${rate(it.rate)}, errors ${percent(it.error_rate)}, p50 ${ms(it.p50_ms)}, p99 ${ms(it.p99_ms)}`;
const told = (it) => [word(it.status), figures(it), it.problem].filter(Boolean).join(", ");

/** Where everything is: {width, height, nodes: name → {x, y, width}, lines: [{from, to, d}]}. */
function layout(dagre, names, pairs) {
  const graph = new dagre.Graph();
  graph.setGraph({ rankdir: "LR", ranker: "tight-tree", nodesep: 10, ranksep: 48, edgesep: 6, marginx: 8, marginy: 8 });
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

export function Graph({ dagre, services, edges }) {
  const [at, setAt] = useState(null);
  const names = services.map((it) => it.name).sort();
  const there = new Set(names);
  const drawn = edges.filter((it) => there.has(it.from) && there.has(it.to) && it.from !== it.to);
  const pairs = drawn.map((it) => [it.from, it.to]).sort();
  const key = JSON.stringify([names, pairs]);
  const plan = useMemo(() => layout(dagre, names, pairs), [dagre, key]);
  const lit = at === null || !there.has(at) ? null : path(at, drawn);
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
    const look = ["node", LOOK[it.status] ?? "", it.kind, lit ? (lit.has(name) ? "lit" : "faint") : ""].join(" ");
    return html`<g key=${name} class=${look} tabindex="0" role="img" aria-label=${`${name}: ${told(it)}`}
      transform=${`translate(${x - width / 2},${y - HEIGHT / 2})`}
      onMouseEnter=${() => setAt(name)} onMouseLeave=${() => setAt(null)} onFocus=${() => setAt(name)} onBlur=${() => setAt(null)}>
      <rect width=${width} height=${HEIGHT} rx=${it.kind === "service" ? 6 : 13} />
      <text x="10" y="17">${SHAPE[it.status] ? `${SHAPE[it.status]} ` : ""}${cut(name)}</text>
    </g>`;
  };
  const near = drawn.filter((it) => it.from === at || it.to === at);
  return html`<div class="scroll graph" role="region" aria-label="Graph of the mesh" tabindex="0">
      <svg width=${plan.width} height=${plan.height} viewBox=${`0 0 ${plan.width} ${plan.height}`} role="group" aria-label="Services and their calls">
        ${plan.lines.map(line)}${names.map(node)}
      </svg>
    </div>
    <div class="near">${at !== null && byName.has(at)
      ? html`<strong>${at}</strong> ${told(byName.get(at))}${near.slice(0, 4).map(
          (it) => html`<br key=${`${it.from} ${it.to}`} />${it.from} → ${it.to}: ${told(it)}`)}`
      : "Point at a service, or move to it with the Tab key, for its figures. Dashed: nothing has passed."}</div>`;
}
