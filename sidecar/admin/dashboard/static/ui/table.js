// Tables: real ones, whose rows are drawn again only when they have changed.
import { Component, html, useEffect, useMemo, useState } from "../vendor/preact.js";

const NARROW = matchMedia("(max-width: 760px)");

/** The columns in the order for this width: on a phone those that are `late` come last. */
function useOrdered(columns) {
  const [narrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const changed = () => setNarrow(NARROW.matches);
    NARROW.addEventListener("change", changed);
    return () => NARROW.removeEventListener("change", changed);
  }, []);
  return useMemo(() => (narrow ? [...columns.filter((it) => !it.late), ...columns.filter((it) => it.late)] : columns), [columns, narrow]);
}

class Row extends Component {
  shouldComponentUpdate(next) {
    return next.row !== this.props.row || next.columns !== this.props.columns || next.also !== this.props.also;
  }

  render({ row, columns }) {
    return html`<tr>
      ${columns.map(({ title, cell, num, head, look }) => {
        const kind = [num ? "n" : "", look ?? ""].join(" ").trim() || undefined;
        return head
          ? html`<th key=${title} scope="row" class=${kind}>${cell(row)}</th>`
          : html`<td key=${title} class=${kind} data-title=${title}>${cell(row)}</td>`;
      })}
    </tr>`;
  }
}

/**
 * `columns`: [{title, cell(row), num, head, look, late}], one list for all times; `keyOf(row)` tells rows apart; `caption` says
 * what it is; `empty` what to say when there are none; `also`: rows are drawn anew when it changes.
 */
export function Table({ caption, columns: given, rows, keyOf, empty = "None.", also, visible = false }) {
  const columns = useOrdered(given);
  if (rows.length === 0) return html`<p class="empty">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
    <table>
      <caption class=${visible ? undefined : "hidden"}>${caption}</caption>
      <thead>
        <tr>
          ${columns.map((it) => html`<th key=${it.title} scope="col" class=${it.num ? "n" : undefined}>${it.title}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map((row) => html`<${Row} key=${keyOf(row)} row=${row} columns=${columns} also=${also} />`)}
      </tbody>
    </table>
  </div>`;
}
