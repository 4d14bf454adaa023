// The live stream, read with fetch because EventSource cannot send the token. One for the whole page.
import { Refused, request } from "./api.js";
import { state, takeChange, takeEvent, takeSnapshot, update } from "./store.js";

const SILENT_MS = 25_000; // the sidecar says something every 15 s
const HIDDEN_MS = 60_000; // a tab that nobody sees gives its place to others
const LONGEST_MS = 30_000;

const TAKE = { snapshot: takeSnapshot, change: takeChange, event: takeEvent };

let lastId = "";
let tries = 0;
let stop = null;
let timer;

function line(name, problem = "") {
  if (state.line !== name || state.problem !== problem) {
    update({ line: name, problem, lineSince: state.line === name ? state.lineSince : Date.now() });
  }
}

/** Read one stream to its end. */
async function listen(signal, alive) {
  const headers = lastId && state.now ? { "Last-Event-ID": lastId } : {};
  const answer = await request("/events", { accept: "text/event-stream", headers, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(block) {
  let kind = "message";
  let data = "";
  for (const field of block.split("\n")) {
    if (field.startsWith("event: ")) kind = field.slice(7);
    else if (field.startsWith("data: ")) data += field.slice(6);
    else if (field.startsWith("id: ")) lastId = field.slice(4);
  }
  if (data && TAKE[kind]) TAKE[kind](JSON.parse(data));
  tries = 0;
  line("live");
}

async function connect() {
  clearTimeout(timer);
  stop?.abort();
  const mine = (stop = new AbortController());
  let watchdog;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => mine.abort(), SILENT_MS);
  };
  alive();
  let problem = "the sidecar has closed the line";
  try {
    await listen(mine.signal, alive);
  } catch (error) {
    problem = error instanceof Refused ? error.message : "nothing was heard of the sidecar";
    if (error.status === 401) tries = Infinity; // the token is asked for; then it goes on
  } finally {
    clearTimeout(watchdog);
  }
  if (stop !== mine || state.line === "paused") return; // another one has begun, or none is wanted
  line("lost", problem);
  if (tries === Infinity) return;
  const wait = Math.min(LONGEST_MS, 500 * 2 ** tries++) * (0.5 + Math.random() / 2);
  timer = setTimeout(connect, wait);
}

/** Begin, or begin again at once. */
export function start() {
  tries = 0;
  line("connecting");
  connect();
}

/** Stop listening until `start`. */
export function pause() {
  line("paused");
  clearTimeout(timer);
  stop?.abort();
}

let hidden;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) {
    hidden = setTimeout(() => {
      if (state.line !== "paused") {
        clearTimeout(timer);
        const mine = stop;
        stop = null;
        mine?.abort();
      }
    }, HIDDEN_MS);
  } else if (stop === null && state.line !== "paused") {
    start();
  }
});
