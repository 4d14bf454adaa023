"""Section 2: what is registered is found, what leaves is gone, and the mesh's upstreams find somebody."""

from __future__ import annotations

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lab import Lab, seen
from sidecar.cli.validate.lookup import LookupFailed
from sidecar.cli.validate.peers import objects
from sidecar.cli.validate.run import Run
from sidecar.core.text import counted

#: The upstream of the validation's own sidecar that is looked at.
_UPSTREAM = "round_robin"


async def check(run: Run, section: Section) -> None:
    """First the given sidecars, by reading; then a life of the sample's instances, from registration to leaving."""
    for peer, upstream in await run.upstreams(section):
        known = [str(it.get("id")) for it in objects(upstream.get("endpoints"))]
        label = f"{peer.name}: {upstream.get('name')}"
        if known:
            section.good("upstream", f"{label} knows {counted(len(known), 'endpoint')}", ", ".join(known[:20]))
        else:
            section.bad(
                "upstream", f"{label} has no endpoint", "is an instance of it registered, and well? "
                f"sidecar diagnose {upstream.get('name')} --admin {peer.url}",
            )  # fmt: skip
    lab = await run.lab(section)
    if lab is None:
        return
    if lab.lookup is None:
        section.none("registration", "there is no registry to register in")
        return
    try:
        await _life(run, lab, section)
    except LookupFailed as error:
        section.bad("registry", str(error), "it has stopped answering meanwhile")


async def _life(run: Run, lab: Lab, section: Section) -> None:
    wanted = {it.name for it in lab.instances}
    for check, service, ids in (
        ("registration", lab.sample, wanted),
        ("own registration", lab.service, {f"{lab.service}-1"}),
    ):
        run.doing(f"waiting until {service} is registered")
        took = await seen(lambda service=service, ids=ids: _has(lab, service, ids))  # type: ignore[misc]
        what = f"{counted(len(ids), 'instance')} of {service}"
        if took is None:
            step = "may this host register there? an ACL token needs service:write"
            section.bad(check, f"{what} did not come to be in the registry", step)
            return
        section.good(check, f"{what}: in the registry")
    if not await _follows(run, lab, wanted, "discovery", "found by the sidecar", section):
        return

    last = lab.instances[-1]
    lab.registrations[last.name].set_health("critical", "sidecar validate's own: as if it were ill")
    if not await _follows(run, lab, wanted - {last.name}, "ill instance", "not used any more", section):
        return
    lab.registrations[last.name].set_health("passing", "sidecar validate's own")
    if not await _follows(run, lab, wanted, "well again", "used again", section):
        return

    await lab.registrations.pop(last.name).leave()
    if last.name in await lab.registered(lab.sample):
        section.bad("deregistration", f"{last.name} is still in the registry", "may this host deregister there?")
        return
    await _follows(run, lab, wanted - {last.name}, "deregistration", "gone from the registry and the sidecar", section)
    lab.enroll(last)
    await _follows(run, lab, wanted, "come back", "registered and found anew", section)


async def _has(lab: Lab, service: str, ids: set[str]) -> bool:
    return ids <= await lab.registered(service)


async def _follows(run: Run, lab: Lab, ids: set[str], check: str, words: str, section: Section) -> bool:
    """Whether the registry and then the sidecar come to have exactly these."""
    run.doing(f"waiting: {check}")

    async def same() -> bool:
        return await lab.registered(lab.sample) == ids and await lab.known(_UPSTREAM) == ids

    took = await seen(same)
    if took is None:
        known = ", ".join(sorted(await lab.known(_UPSTREAM))) or "none"
        section.bad(check, f"the sidecar knows {known} instead of {', '.join(sorted(ids))}",
                    "does the registry answer blocking queries, and all its servers the same?")  # fmt: skip
        return False
    section.good(check, f"{words} after {took:.2f} s", ", ".join(sorted(ids)))
    return True
