// All upstreams, and one of them with everything.
import { html, useMemo } from "../vendor/preact.js";
import { useStore } from "../app/store.js";
import { Title } from "../ui/parts.js";
import { Table } from "../ui/table.js";
import { Upstream } from "../ui/upstream.js";
import { UPSTREAM, worstFirst } from "../ui/upstreams.js";

export const path = "upstreams";
export const title = "Upstreams";
export const alarm = true;
export const count = ({ now }) => (now ? Object.values(now.upstreams).filter((it) => it.status !== "healthy").length : 0);

const COLUMNS = Object.values(UPSTREAM);

export const Page = ({ rest }) => (rest.length ? html`<${Upstream} name=${rest[0]} />` : html`<${All} />`);

function All() {
  const upstreams = useStore((it) => it.now?.upstreams);
  const rows = useMemo(() => worstFirst(upstreams ?? {}), [upstreams]);
  return html`<${Title}>Upstreams<//>
    <${Table}
      caption="Upstreams, those with trouble first"
      columns=${COLUMNS}
      rows=${rows}
      keyOf=${(it) => it.name}
      empty=${upstreams ? "This sidecar has no upstreams." : "Waiting for the sidecar…"}
    />`;
}
