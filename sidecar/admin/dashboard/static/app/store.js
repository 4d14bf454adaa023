// One store for what every page shows. Changes are drawn together, four times a second at most: nobody reads faster.
import { useEffect, useRef, useState } from "../vendor/preact.js";

const DRAW_MS = 250;
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
let waiting = false;

/** Change some of the state, and draw what depends on it, soon. */
export function update(changes) {
  Object.assign(state, changes);
  if (waiting) return;
  waiting = true;
  const rest = Math.max(0, drawn + DRAW_MS - performance.now());
  const draw = () =>
    requestAnimationFrame(() => {
      waiting = false;
      drawn = performance.now();
      for (const watcher of [...watchers]) watcher();
    });
  if (rest > 0) setTimeout(draw, rest);
  else draw();
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
  update({ now });
}

/** An event has happened. */
export function takeEvent(event) {
  update({ events: [event, ...state.events].slice(0, MOST_EVENTS) });
}
