// Small parts of pages.
import { html } from "../vendor/preact.js";
import { Status } from "./status.js";

/** The heading of a page; focus comes here when it is opened. */
export function Title({ children, beside }) {
  return html`<div class="title"><h1 tabindex="-1">${children}</h1>${beside}</div>`;
}

/** A part with a heading of its own. */
export function Section({ title, beside, children, id }) {
  return html`<section aria-label=${title} id=${id}>
    <div class="title"><h2>${title}</h2>${beside}</div>
    ${children}
  </section>`;
}

/** Numbers in a row: [name, value, note]. */
export function Facts({ facts }) {
  return html`<dl class="facts">
    ${facts.filter(Boolean).map(
      ([name, value, note]) =>
        html`<div key=${name}><dt>${name}</dt><dd>${value}${note && html`<small>${note}</small>`}</dd></div>`,
    )}
  </dl>`;
}

/** What went wrong with asking, or that it has not come yet; nothing once there is something to show. */
export function Waiting({ poll }) {
  if (poll.error?.status === 401) return html`<p class="empty">This needs the admin token.</p>`;
  if (poll.error) return html`<p class="bad" role="alert">▲ ${poll.error.message}</p>`;
  return poll.data ? null : html`<p class="empty">Asking…</p>`;
}

/** What is wrong, a line each: [state, name, why, link]. */
export function Troubles({ troubles }) {
  return html`<ul class="troubles">
    ${troubles.map(
      ([is, name, why, link]) => html`<li key=${name}>
        <${Status} is=${is} says=${name} />
        <span>${why}</span>
        ${link && html`<a href=${link} rel="noreferrer" aria-label=${`Look at ${name}`}>Look</a>`}
      </li>`,
    )}
  </ul>`;
}
