// What is around every page: the head with the state of the sidecar and of the line, and the menu.
import { html, useEffect, useErrorBoundary, useRef, useState } from "../vendor/preact.js";
import { Status } from "../ui/status.js";
import { ago } from "../ui/format.js";
import { setToken } from "./api.js";
import { pause, start } from "./events.js";
import { pages } from "./pages.js";
import { to, useRoute } from "./router.js";
import { useStore } from "./store.js";

export function Shell() {
  const route = useRoute();
  const page = pages.find((it) => it.path === route.page) ?? pages[0];
  const needsToken = useStore((it) => it.needsToken);
  const service = useStore((it) => it.now?.service ?? "");
  const first = useRef(true);
  const address = [page.path, ...route.rest].join("/");
  useEffect(() => {
    document.title = `${[route.rest[0], page.title, service].filter(Boolean).join(" · ")} · sidecar`;
  }, [address, service]);
  useEffect(() => {
    if (first.current) first.current = false;
    else {
      scrollTo(0, 0);
      document.querySelector("main h1")?.focus({ preventScroll: true });
    }
  }, [address]);
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <${Head} />
    <${Menu} current=${page} />
    <main id="main" tabindex="-1">
      ${needsToken && html`<${Token} />`}
      <${Guarded} key=${address}><${page.Page} rest=${route.rest} query=${route.query} /><//>
    </main>
  `;
}

function skip(event) {
  event.preventDefault();
  document.querySelector("main h1")?.focus();
}

/** A page that fails says so, and the rest stays. */
function Guarded({ children }) {
  const [error, reset] = useErrorBoundary((caught) => console.error(caught));
  if (!error) return children;
  return html`<h1 tabindex="-1">This page has failed</h1>
    <p>${String(error)}</p>
    <button onClick=${reset}>Try again</button>`;
}

function Head() {
  const now = useStore((it) => it.now);
  return html`
    <header class="head">
      <a class="brand" href=${to("overview")}>
        <svg viewBox="0 0 20 20" aria-hidden="true"><rect x="1" y="4" width="8" height="12" rx="2" /><rect x="11" y="1" width="8" height="18" rx="2" /></svg>
        <span>${now?.service ?? "sidecar"}</span>
      </a>
      ${now &&
      html`<${Status} is=${now.status} />
        <span class="dim wide">${now.id}</span>
        ${now.phase !== "ready" && html`<${Status} is=${now.phase} />`}`}
      <${Line} />
    </header>
  `;
}

const LINES = { live: "Live", connecting: "Connecting", lost: "Line lost", paused: "Paused", locked: "Wants its token" };

function Line() {
  const line = useStore((it) => (it.needsToken ? "locked" : it.line));
  const problem = useStore((it) => it.problem);
  const since = useStore((it) => it.lineSince);
  const [, draw] = useState(0);
  useEffect(() => {
    if (line !== "lost" && line !== "paused") return undefined;
    const timer = setInterval(() => draw((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [line]);
  const still = line === "lost" || line === "paused";
  return html`
    <span class="line" data-line=${line}>
      <span role="status" title=${line === "lost" ? problem : ""}><i class=${`dot ${line}`} aria-hidden="true"></i>${LINES[line]}</span>
      ${still && html`<span class="dim wide">${ago(since)}</span>`}
      ${line === "lost"
        ? html`<button class="quiet" onClick=${start}>Try now</button>`
        : line !== "locked" &&
          html`<button class="quiet" aria-pressed=${line === "paused"} onClick=${line === "paused" ? start : pause}>
            ${line === "paused" ? "Go on" : "Pause"}
          </button>`}
    </span>
  `;
}

function Menu({ current }) {
  const menu = useRef(null);
  useEffect(() => menu.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }), [current]);
  return html`
    <nav class="menu" aria-label="Pages" ref=${menu}>
      <ul>
        ${pages.map((page) => html`<${Entry} key=${page.path} page=${page} current=${page === current} />`)}
      </ul>
    </nav>
  `;
}

function Entry({ page, current }) {
  const shown = useStore((it) => (page.shown ? page.shown(it) : true));
  const count = useStore((it) => (page.count ? page.count(it) : 0));
  if (!shown && !current) return null;
  return html`<li>
    <a href=${to(page.path)} aria-current=${current ? "page" : undefined}>
      ${page.title}${count > 0 && html` <span class=${`count ${page.alarm ? "alarm" : ""}`}>${count}</span>`}
    </a>
  </li>`;
}

function Token() {
  const refused = useStore((it) => it.tokenRefused);
  const field = useRef(null);
  useEffect(() => field.current?.focus(), []);
  const give = (event) => {
    event.preventDefault();
    setToken(field.current.value.trim());
    start();
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  return html`
    <form class="token" onSubmit=${give} aria-labelledby="token-title">
      <h2 id="token-title">This sidecar wants its admin token</h2>
      <p>It is the configuration's <code>admin.token</code>. This tab forgets it when it is closed.</p>
      <label>Token <input ref=${field} type="password" autocomplete="off" required /></label>
      <button class="main">Go on</button>
      ${refused && html`<p class="bad" role="alert">▲ That was not the token.</p>`}
    </form>
  `;
}
