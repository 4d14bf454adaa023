// All upstreams, and one of them with everything.
import { html, useMemo } from "../vendor/preact.js";
import { useStore } from "../app/store.js";
import { Title } from "../ui/parts.js";
import { Table } from "../ui/table.js";
import { UPSTREAM, worstFirst } from "../ui/upstreams.js";

export const path = "upstreams";
export const title = "Upstreams";

const COLUMNS = Object.values(UPSTREAM);

export function Page() {
  const upstreams = useStore((it) => it.now?.upstreams);
  const rows = useMemo(() => worstFirst(upstreams ?? {}), [upstreams]);
  return html`<${Title}>Upstreams<//><${Table} caption="Upstreams" columns=${COLUMNS} rows=${rows} keyOf=${(it) => it.name} empty="This sidecar has no upstreams." />`;
}
