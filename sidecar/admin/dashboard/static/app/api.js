// Asking the admin API. The token is kept for this tab's session only, and goes nowhere but into a header.
import { useCallback, useEffect, useRef, useState } from "../vendor/preact.js";
import { update } from "./store.js";

const KEY = "sidecar.token";

/** An answer that says no, or none at all; `status` is 0 then. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
  update({ needsToken: false, tokenRefused: false });
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;

/** Fetch with the token; an answer that is none of 2xx is thrown as Refused. 401 makes the page ask for the token. */
export async function request(path, { method = "GET", body, headers = {}, signal, accept = "application/json" } = {}) {
  const token = sessionStorage.getItem(KEY);
  const fields = { Accept: accept, ...headers };
  if (token !== null) fields["X-Sidecar-Token"] = token;
  if (body !== undefined && typeof body !== "string") {
    body = JSON.stringify(body);
    fields["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: fields, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "no_answer", "the sidecar does not answer");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) update({ needsToken: true, tokenRefused: token !== null });
  throw new Refused(answer.status, said.error ?? "", said.message ?? `the answer is ${answer.status}`);
}

/** Ask for JSON. An unhealthy answer (503 with a status) is an answer, too. */
export async function ask(path, options) {
  return (await request(path, options)).json();
}

/** Ask now, and every `seconds` while the page is seen: {data, error, again}. A path that is null is not asked for. */
export function usePoll(path, seconds) {
  const [found, setFound] = useState({ path: null, data: null, error: null });
  const [round, setRound] = useState(0);
  const last = useRef("");
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    let timer;
    const look = async () => {
      if (document.hidden) return;
      clearTimeout(timer);
      try {
        const text = await (await request(path, { signal: stop.signal })).text();
        if (text !== last.current) {
          last.current = text; // nothing is drawn for nothing
          setFound({ path, data: JSON.parse(text), error: null });
        } else {
          setFound((was) => (was.error === null ? was : { ...was, error: null }));
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        last.current = "";
        setFound((was) => ({ path, data: was.path === path ? was.data : null, error }));
      }
      if (seconds && !stop.signal.aborted) timer = setTimeout(look, seconds * 1000);
    };
    look();
    document.addEventListener("visibilitychange", look);
    return () => {
      stop.abort();
      clearTimeout(timer);
      last.current = "";
      document.removeEventListener("visibilitychange", look);
    };
  }, [path, seconds, round]);
  const again = useCallback(() => setRound((n) => n + 1), []);
  const mine = found.path === path;
  return { data: mine ? found.data : null, error: mine ? found.error : null, again };
}
