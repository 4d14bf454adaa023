// What the sidecar runs with, which of it somebody has set, and how that has changed.
import { html, useMemo, useState } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { Events } from "../ui/events.js";
import { number } from "../ui/format.js";
import { Section, Title, Waiting } from "../ui/parts.js";
import { Rehearsal } from "../ui/rehearsal.js";
import { Table } from "../ui/table.js";

export const path = "configuration";
export const title = "Configuration";

const KINDS = ["reload", "reload_refused", "setting", "ready", "drain"];
const COLUMNS = [
  { title: "Key", head: true, look: "mono", cell: (it) => it.path },
  { title: "Value", look: "mono", cell: (it) => it.value },
  { title: "From", cell: (it) => (it.set ? html`<span class="tag set">set here</span>` : html`<span class="dim">default</span>`) },
];

const text = (value) => (value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** All keys below `value`, each with its path; a list is one value. */
function leaves(value, path, set, found) {
  if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
    for (const [key, item] of Object.entries(value)) leaves(item, path ? `${path}.${key}` : key, set, found);
  } else found.push({ path, value: text(value), set: set(path) });
  return found;
}

export function Page() {
  const config = usePoll("/config", 10);
  const differs = usePoll("/config/set", 10);
  const [all, setAll] = useState(false);
  const [wanted, setWanted] = useState("");
  const rows = useMemo(() => {
    if (!config.data || !differs.data) return [];
    const paths = differs.data.paths;
    const set = (path) => paths.some((it) => path === it || path.startsWith(`${it}.`));
    return leaves(config.data, "", set, []);
  }, [config.data, differs.data]);
  const shown = rows.filter((it) => (all || it.set) && (it.path.includes(wanted) || it.value.includes(wanted)));
  const filter = html`<span class="buttons">
    <label class="choose">Find <input type="search" value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></label>
    <label class="choose"><input type="checkbox" checked=${all} onChange=${(event) => setAll(event.target.checked)} />with defaults</label>
  </span>`;
  return html`
    <${Title}>Configuration<//>
    <${Section} title="What is in force" beside=${filter}>
      <${Waiting} poll=${config} />
      ${rows.length > 0 &&
      html`<${Table} caption="Keys of the configuration" columns=${COLUMNS} rows=${shown} keyOf=${(it) => it.path} empty="Nothing like that." />
        <p class="dim">${number(rows.filter((it) => it.set).length)} of ${number(rows.length)} keys are not as by default. Secrets are never shown.</p>`}
    <//>
    <${Section} title="Rehearsal">${config.data && html`<${Rehearsal} config=${config.data} />`}<//>
    <${Section} title="Last changes"><${Events} most=${20} kinds=${KINDS} /><//>
  `;
}
