// One store for what every page shows. What the stream says is drawn together, twice a second at most: nobody reads faster.
import { useEffect, useRef, useState } from "../vendor/preact.js";

const DRAW_MS = 500;
const MOST_EVENTS = 200;

export const state = {
  line: "connecting", // of the live stream: connecting, live, lost, paused
  lineSince: Date.now(),
  problem: "", // why the line is lost
  needsToken: false,
  tokenRefused: false,
  now: null, // the last snapshot with all changes since, as GET /events has it, without events
  events: [], // the newest first
};

const watchers = new Set();
let drawn = 0;
let frame = 0;
let timer = 0;

/** Change some of the state, and draw what depends on it with the next frame. */
export function update(changes) {
  Object.assign(state, changes);
  clearTimeout(timer);
  timer = 0;
  if (!frame) frame = requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  drawn = performance.now();
  for (const watcher of [...watchers]) watcher();
}

/** The same, when it is time. */
function later(changes) {
  const rest = drawn + DRAW_MS - performance.now();
  if (rest <= 0) update(changes);
  else {
    Object.assign(state, changes);
    if (!frame && !timer) timer = setTimeout(update, rest);
  }
}

/** What `select` takes from the state; the component is drawn again when that is another value. */
export function useStore(select) {
  const [, draw] = useState(0);
  const latest = useRef(null);
  const value = select(state);
  latest.current = { select, value };
  useEffect(() => {
    const watcher = () => {
      if (latest.current.select(state) !== latest.current.value) draw((n) => n + 1);
    };
    watchers.add(watcher);
    watcher(); // it may have changed since
    return () => watchers.delete(watcher);
  }, []);
  return value;
}

/** A snapshot of the stream has come. */
export function takeSnapshot({ events, ...now }) {
  const sameRun = state.now && state.now.id === now.id && !(events.length && events[0].id <= (state.events[0]?.id ?? 0));
  update({ now, events: [...events].reverse().concat(sameRun ? state.events : []).slice(0, MOST_EVENTS) });
}

/** What has changed since: upstreams as a whole each, null where one is gone. */
export function takeChange({ upstreams, ...rest }) {
  if (!state.now) return;
  const now = { ...state.now, ...rest };
  if (upstreams) {
    now.upstreams = { ...now.upstreams };
    for (const [name, value] of Object.entries(upstreams)) {
      if (value === null) delete now.upstreams[name];
      else now.upstreams[name] = value;
    }
  }
  later({ now });
}

/** An event has happened. */
export function takeEvent(event) {
  later({ events: [event, ...state.events].slice(0, MOST_EVENTS) });
}
