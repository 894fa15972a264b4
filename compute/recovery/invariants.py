"""What must be true of a host at rest; used by the tests and by the operator's audit alike.

P2: never two running copies, never zero copies of a disk that a guest refers to. P3: nothing of
ours without an owner. P1: every operation ends or names a command. Claims = observed + in progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compute.model import states, wire
from compute.model.numa import Placement
from compute.model.pci import given_from
from compute.model.volume import Volume
from compute.recovery.decide import frozen
from compute.recovery.observe import GuestFacts, Observation
from compute.rpc.primitives import data
from compute.steps.attached import KIND
from compute.steps.resize import holds_way_back
from db.journal import rows

HAS_DISKS = (states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED, states.RESCUED,
             states.RESIZED, states.SHELVED, states.SOFT_DELETED)
STUCK_SECONDS = 3600.0
FROZEN_SECONDS = 600.0  # that file systems may stand still for a snapshot


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be: which invariant, about whom, what, and what to do."""

    rule: str
    subject: str
    what: str
    next: str = ""


def check(seen: Observation, *, now: float | None = None) -> list[Finding]:
    """All findings about one observation; empty when all is well."""
    found: list[Finding] = []
    for facts in seen.guests.values():
        found += _operation(facts, now or seen.time)
        if facts.operation is None:
            found += _owners(facts)
            found += _agreement(facts)
    found += _places(seen)
    found += [Finding("observable", source.split(":", 1)[0], f"It cannot be observed: {source}",
                      "See 'magnetar doctor'.") for source in seen.unknown]
    return found


def check_nics(seen: Observation, taps: Mapping[str, frozenset[str]]) -> list[Finding]:
    """Whether the running guests have the NICs that the control plane shows.

    :param taps: what :meth:`virt.driver.Driver.taps` told.
    """
    found = []
    for facts in seen.guests.values():
        domain, fields = facts.domain.value, facts.fields
        runs = domain is not None and domain.power_state in (states.RUNNING, states.POWER_PAUSED)
        if not runs or facts.operation is not None or fields.get("task_state") is not None \
                or not fields:
            continue
        wanted = {nic.tap: nic for nic in wire.nics(fields)}
        have = taps.get(facts.uuid, frozenset())
        for tap in sorted(set(wanted) - have):
            found.append(Finding("nics", facts.uuid, f"Port {wanted[tap].id} ({wanted[tap].mac}) "
                                 "is its own, and it has no such NIC.",
                                 f"magnetar server reboot --hard {facts.uuid}"))
        for tap in sorted(have - set(wanted)):
            found.append(Finding("nics", facts.uuid, f"It has a NIC on {tap}, which is no port of "
                                 "its own: somebody attached it behind our back, or it did not "
                                 "let it go.", f"virsh domiflist {facts.uuid}; a hard reboot "
                                 "takes it away"))
    return found


def check_volumes(seen: Observation, look: Callable[[str], tuple[frozenset[str],
                                                                   frozenset[str] | None]],
                  ) -> list[Finding]:
    """Whether the guests have the volumes that the journal says are connected for them.

    :param look: :meth:`virt.driver.Driver.volumes`.
    """
    found = []
    for facts in seen.guests.values():
        wanted = {volume.shown: volume.id for claim in facts.claims if claim.kind == KIND
                  for volume in [Volume.from_plain(one["volume"])
                                 for one in claim.data["volumes"]]}
        if facts.domain.value is None or facts.operation is not None or not wanted:
            continue
        stored, live = look(facts.uuid)
        for serial in sorted(set(wanted) - (stored if live is None else stored & live)):
            found.append(Finding(
                "volumes", facts.uuid, f"Volume {wanted[serial]} is connected for it, and it has "
                "no such disk.", f"magnetar server reboot --hard {facts.uuid}"))
    return found


def _places(seen: Observation) -> list[Finding]:
    """No host CPU and no device is two guests' own."""
    owners: dict[str, str] = {}
    found = []
    for uuid, facts in sorted(seen.guests.items()):
        held = {f"CPU {cpu}" for claim in facts.claims if claim.data.get("numa")
                for cpu in Placement.from_plain(claim.data["numa"]).held()}
        held |= {f"device {each.address}" for claim in facts.claims
                 for each in given_from(claim.data.get("pci") or ())}
        twice = sorted(held & owners.keys())
        if twice:
            others = ", ".join(sorted({owners[one] for one in twice}))
            found.append(Finding("places", uuid, f"Host {', '.join(twice)} are its own and "
                                 f"those of {others} as well.",
                                 f"Move one of them away; see 'magnetar explain {uuid}'."))
        owners |= dict.fromkeys(held, uuid)
    return found


def _operation(facts: GuestFacts, now: float) -> list[Finding]:
    row = facts.operation
    if row is None:
        return []
    if row.state == rows.NEEDS_OPERATOR:
        return [Finding("ends", facts.uuid, f"Operation {row.id} ({row.verb}) needs an operator: "
                        f"{(row.error or {}).get('what', '')}",
                        (row.error or {}).get("next", ""))]
    if now - row.updated > STUCK_SECONDS:
        return [Finding("ends", facts.uuid, f"Operation {row.id} ({row.verb}) gave no sign of life "
                        f"for {now - row.updated:.0f} s.", f"magnetar op show {row.id}")]
    return []


def _owners(facts: GuestFacts) -> list[Finding]:
    """P3, in both directions: what is there is claimed, what is claimed is there."""
    if not (facts.domain.known and facts.disks.known and facts.record.known):
        return []
    found = []
    kinds = {claim.kind for claim in facts.claims}
    owned = facts.record.value is not None
    if not owned and facts.elsewhere.known and facts.elsewhere.value:
        return _moved(facts)
    if facts.domain.value is not None and not owned:
        found.append(Finding("owner", facts.uuid, f"Domain {facts.domain.value.name} is ours and "
                             "the control plane has no such guest on this host.",
                             f"magnetar explain {facts.uuid}"))
    if facts.disks.value and not owned:
        found.append(Finding("owner", facts.uuid, "Disks are here and the control plane has no "
                             "such guest on this host.", f"magnetar explain {facts.uuid}"))
    if kinds and not owned:
        found.append(Finding("owner", facts.uuid, f"Claims ({', '.join(sorted(kinds))}) are held "
                             "for a guest that the control plane does not have on this host.",
                             f"magnetar explain {facts.uuid}"))
    if facts.domain.value is not None and owned and "domain" not in kinds:
        found.append(Finding("claims", facts.uuid, "The domain is here without a claim.",
                             "The next pass of reconciliation claims it."))
    if facts.disks.value and owned and "disks" not in kinds:
        found.append(Finding("claims", facts.uuid, "Disks are here without a claim.",
                             f"magnetar explain {facts.uuid}"))
    return found


def _moved(facts: GuestFacts) -> list[Finding]:
    """What is here of a guest that another host has: while it is on its way (or its resize waits to
    be confirmed) that is the way back; disks alone may be on storage that both share."""
    fields = data(facts.elsewhere.value)
    on_its_way = fields.get("task_state") is not None or \
        fields.get("vm_state") == states.RESIZED and holds_way_back(facts.claims)
    if on_its_way or (facts.domain.value is None and not facts.claims):
        return []
    held = [f"domain {facts.domain.value.name}"] if facts.domain.value else []
    held += sorted(claim.kind for claim in facts.claims)
    return [Finding("owner", facts.uuid, f"It belongs to host {fields.get('host')} by now, and "
                    f"this is still here: {', '.join(held)}.",
                    "It is cleared when that host has proven that it has it: "
                    f"magnetar explain {facts.uuid}")]


def _agreement(facts: GuestFacts) -> list[Finding]:
    """P2, and states that agree."""
    if facts.record.value is None or not (facts.domain.known and facts.disks.known):
        return []
    found = []
    vm_state, task = facts.fields.get("vm_state"), facts.fields.get("task_state")
    if vm_state in HAS_DISKS and not facts.disks.value:
        found.append(Finding("disks", facts.uuid, f"It is {vm_state} and has no disks here.",
                             f"Look into the quarantine: magnetar explain {facts.uuid}"))
    if task is not None:
        found.append(Finding("task", facts.uuid, f"Task {task} is set and no operation of ours "
                             "works on it.", "It is adopted when its message counts as lost."))
    else:
        found += _power(facts, vm_state) + _left_over(facts)
    return found


def _power(facts: GuestFacts, vm_state: str | None) -> list[Finding]:
    """What the hypervisor has fits what the guest is said to be."""
    found = []
    domain, uuid = facts.domain.value, facts.uuid
    running = domain is not None and domain.power_state == states.RUNNING
    paused = domain is not None and domain.power_state == states.POWER_PAUSED
    hard = f"magnetar server reboot --hard {uuid}"
    if vm_state == states.ACTIVE and paused:
        found.append(Finding("power", uuid, f"It is active and stands still: {frozen(domain)}",
                             f"magnetar explain {uuid}"))
    elif vm_state == states.ACTIVE and not running:
        found.append(Finding("power", uuid, "It is active and does not run.", hard))
    if vm_state == states.PAUSED and running:
        found.append(Finding("power", uuid, "It is paused in the control plane and runs: somebody "
                             "let it go on behind our back.",
                             f"virsh suspend {uuid}, or magnetar server unpause {uuid}"))
    elif vm_state == states.PAUSED and not paused:
        found.append(Finding("power", uuid, "It is paused in the control plane and is not in the "
                             "hypervisor's memory.", hard))
    if vm_state == states.SUSPENDED and (running or paused):
        found.append(Finding("power", uuid, "It is suspended in the control plane and runs: "
                             "somebody started it behind our back.",
                             f"virsh managedsave {uuid}, or magnetar server resume {uuid}"))
    elif vm_state == states.SUSPENDED and not (domain is not None and domain.saved):
        found.append(Finding("memory", uuid, "It is suspended, and its saved memory is not here.",
                             hard))
    if vm_state == states.RESCUED and not running:
        found.append(Finding("power", uuid, "It is rescued and does not run.",
                             f"magnetar server unrescue {uuid}"))
    if vm_state == states.STOPPED and running:
        found.append(Finding("power", facts.uuid, "It is stopped in the control plane and runs: "
                             "somebody started it behind our back.",
                             f"virsh shutdown {facts.uuid}, or magnetar server start"))
    if vm_state == states.SOFT_DELETED and (running or paused):
        found.append(Finding("power", uuid, "It was deleted, can be restored, and runs: somebody "
                             "started it behind our back.",
                             f"virsh destroy {uuid}, or magnetar server restore {uuid}"))
    if vm_state == states.ERROR and running:
        found.append(Finding("power", facts.uuid, "It is in error in the control plane and runs.",
                             f"magnetar server reboot --hard {facts.uuid}, or delete it"))
    return found


def _left_over(facts: GuestFacts) -> list[Finding]:
    """What a verb left on a guest that runs or stands still."""
    found = []
    domain, uuid = facts.domain.value, facts.uuid
    power = domain.power_state if domain is not None else None
    hard = f"magnetar server reboot --hard {uuid}"
    awake = power in (states.RUNNING, states.POWER_PAUSED)
    if awake and any(claim.kind == "unplugged" for claim in facts.claims):
        found.append(Finding("devices", uuid, "It runs without devices that were unplugged when "
                             "it was suspended.", hard))
    frozen_at = [claim.created for claim in facts.claims if claim.kind == "frozen"]
    stood = facts.domain.time - min(frozen_at, default=facts.domain.time)
    if power == states.RUNNING and stood > FROZEN_SECONDS:
        found.append(Finding("frozen", uuid, "Its file systems may stand still: its agent does not "
                             "answer to let them go on.", hard))
    return found
