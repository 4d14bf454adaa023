// Where we are: #/page/part?query. Links do the rest.
import { useEffect, useState } from "../vendor/preact.js";

/** The parts of the address behind #, decoded: {page, rest, query}. */
export function where(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { page: parts[0] ?? "overview", rest: parts.slice(1), query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** An address of these parts, whatever characters are in them. */
export const to = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export function useRoute() {
  const [route, setRoute] = useState(where());
  useEffect(() => {
    const changed = () => setRoute(where());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}
