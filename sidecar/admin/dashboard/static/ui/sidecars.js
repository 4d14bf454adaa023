// The ways to other sidecars' own dashboards, by what the mesh knows of them.
import { html, useMemo } from "../vendor/preact.js";
import { usePoll } from "../app/api.js";
import { useStore } from "../app/store.js";

/** Where its dashboard is: only a host with a port becomes a link. */
export const address = (it) => (it && /^(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}$/.test(it.admin ?? "") ? `http:${"//"}${it.admin}/` : undefined);

/** A service's sidecars that have answered, and have one. */
export const known = (it) => it.sidecars.filter((one) => !one.problem && address(one));

/** Addresses of dashboards by the names of services. */
export function useSidecars() {
  const registry = useStore((it) => Boolean(it.now?.registry));
  const poll = usePoll(registry ? "/mesh" : null, 15);
  return useMemo(() => new Map((poll.data?.services ?? []).map((it) => [it.name, address(known(it)[0])])), [poll.data]);
}

export const Way = ({ to, label, about }) => (to ? html`<a class="nowrap" href=${to} rel="noreferrer" aria-label=${`${label} of ${about}`}>${label}</a>` : null);
