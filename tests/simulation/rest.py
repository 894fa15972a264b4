"""What must be true of a world at rest: record, hosts, claims and migrations agree."""

from __future__ import annotations

from typing import Any

from compute.model import states
from compute.recovery.invariants import HAS_DISKS, check
from compute.recovery.observe import observe
from compute.rpc.primitives import data
from compute.steps.domain import GENERATION
from db.journal import rows
from tests.fake_conductor import ENDED
from tests.simulation.host import CONTEXT, FOREIGN, Host

KINDS = {"resources", "ports", "disks", "domain"}
KEPT = {"aside", "resources-move"}  # claims on the way back of a guest that is resized


class Rest:
    """Looks at a simulation of which nothing goes on any more."""

    def __init__(self, sim: Any):
        self.sim, self.control = sim, sim.control

    def wrong(self) -> list[str]:
        """All that is not as it must be."""
        found = []
        for host in self.sim.hosts:
            found += [f"{host.name}: {line}" for line in self._host(host)]
        for uuid in self.control.live():
            found += [f"{uuid[:8]} {line}" for line in self._guest(uuid)]
        found += [f"migration {m.id} of {m.guest[:8]} is {self.control.moving(m.id)['status']}"
                  for m in self.control.moves.values() if not self._ended(m.guest, m.id)
                  and not self.control.fields(m.guest)["deleted"]]
        ports = {p.name for p in self.sim.ports.iterdir()}
        placed = set().union(*(h.present() for h in self.sim.hosts))
        if ports != placed:
            found.append(f"ports of {sorted(ports)}, guests {sorted(placed)}")
        return found

    def _ended(self, uuid: str, id: int) -> bool:
        status = self.control.moving(id)["status"]
        waits = status == "finished" and self.control.fields(uuid)["vm_state"] == states.RESIZED
        return status in ENDED or (waits and self.kept(uuid) is not None)

    def kept(self, uuid: str) -> str | None:
        """The host that keeps the way back of a guest that is resized."""
        fields = self.control.fields(uuid)
        if fields["deleted"] or fields["vm_state"] != states.RESIZED:
            return None
        waits = [self.control.moving(m.id) for m in self.control.opened(uuid)]
        return waits[0]["source_compute"] if len(waits) == 1 else None

    # -- guests -------------------------------------------------------------------------------
    def _guest(self, uuid: str) -> list[str]:
        fields, found = self.control.fields(uuid), []
        where = [h.name for h in self.sim.hosts if uuid in h.present()]
        has = fields["vm_state"] in HAS_DISKS
        if fields["vm_state"] == states.STOPPED and uuid not in self.sim.watcher.may_be_off \
                and not self._gave_up(uuid):
            found.append("P5: is stopped and nobody asked for it")
        if (has and where != [fields["host"]]) or (not has and where not in (
                [], [fields["host"]])):
            found.append(f"is {fields['vm_state']} on {fields['host']}, and found on {where}")
        elif where:
            found += self._own(uuid, self.sim.host(fields["host"]), fields)
        aside = [h.name for h in self.sim.hosts if h.driver._aside(uuid).exists()]
        kept = self.kept(uuid)
        if aside and self.sim.hosts[0].settings.shared:
            aside = aside[:1]
            kept = kept and aside[0]
        if fields["vm_state"] == states.RESIZED and kept is None:
            found.append("is resized, and no migration of it waits")
        if aside != ([kept] if kept else []):
            found.append(f"has former disks on {aside}, not {kept}")
        return found

    def _own(self, uuid: str, host: Host, fields: Any) -> list[str]:
        """On the host to which it belongs."""
        found, domain = [], host.driver._state(uuid)
        claimed = host.journal.claims(kind="domain", guest=uuid)
        if domain is not None and (domain.job or not domain.persistent):
            found.append(f"has job {domain.job!r}, persistent {domain.persistent}")
        if domain is not None and claimed:
            recorded = int((fields.get("system_metadata") or {}).get(GENERATION) or 1)
            numbers = {domain.generation, claimed[0].data["generation"], recorded}
            if len(numbers) > 1:
                found.append(f"generation {domain.generation}, claimed "
                             f"{claimed[0].data['generation']}, recorded {recorded}")
        if fields["vm_state"] in HAS_DISKS and domain is not None:
            found += self._disks(uuid, host, fields)
        if fields["node"] != host.name:
            found.append(f"is on {host.name}, node {fields['node']}")
        bound = host.manager.world.networks.host(uuid) if (self.sim.ports / uuid).exists() \
            else None
        moved = [m for m in self.control.moves.values() if m.guest == uuid]
        if bound not in (None, host.name) or (bound is None and moved and domain is not None
                                              and domain.generation > 1):
            found.append(f"has ports bound to {bound} and is on {host.name}")
        return found

    def _disks(self, uuid: str, host: Host, fields: Any) -> list[str]:
        found, written = [], self.sim.fabric.written(uuid)
        count = host.driver.count_on_disk(uuid)
        if count is None or count < written:
            found.append(f"P2: has a disk of {count}, and had written {written}")
        [root] = [d.size for d in host.driver._listed(host.driver._dir(uuid)) if d.role == "root"]
        if root >> 30 != data(fields["flavor"])["root_gb"]:
            found.append(f"has a disk of {root >> 30} GiB and flavor "
                         f"{data(fields['flavor'])['name']}")
        return found

    def _gave_up(self, uuid: str) -> bool:
        """Whether an operation that would have let a guest run was undone."""
        return any(row.state == rows.UNDONE and row.verb in ("start", "reboot")
                   for host in self.sim.hosts for row in host.journal.find(guest=uuid))

    # -- hosts --------------------------------------------------------------------------------
    def _host(self, host: Host) -> list[str]:
        found = []
        for f in check(observe(host.manager.world, CONTEXT)):
            elsewhere = self.control.fields(f.subject).get("host") not in (None, host.name)
            # A rescue that a loss of power ended is told to its owner, and not begun again.
            told = "rescued" in f.what and f.subject in self.sim.watcher.may_be_off
            if not told and not (host.settings.shared and elsewhere and "Disks" in f.what):
                found.append(f"{f.rule}: {f.subject[:8]}: {f.what}")
        found += [f"{row.verb} {row.id[:4]} of {row.guest[:8]} is {row.state}"
                  for row in host.journal.find(active=True)]
        found += [f"{row.verb} {row.id[:4]}: {row.error['what']}" for row in host.journal.find()
                  if (row.error or {}).get("code") == "internal"]
        claims: dict[str, set[str]] = {}
        for claim in host.journal.claims():
            claims.setdefault(claim.guest, set()).add(claim.kind)
        wanted = {uuid: set(KINDS) for uuid in host.present()}
        for uuid in self.control.live():
            if self.kept(uuid) == host.name:
                wanted.setdefault(uuid, set()).update(KEPT)
        if claims != wanted:
            found.append(f"claims {claims}, wanted {wanted}")
        secrets = [p.name for p in (host.root / "secrets").iterdir()]
        if secrets:
            found.append(f"secrets left: {secrets}")
        if host.driver.power(FOREIGN) != states.RUNNING:
            found.append("P3: the domain that is not ours does not run any more")
        return found

    def nothing(self) -> list[str]:
        """All that is left although every guest was deleted."""
        found = [f"{host.name}: {what} of {sorted(left)} left"
                 for host in self.sim.hosts
                 for what, left in (("domain or disks", host.present()),
                                    ("claims", {c.guest for c in host.journal.claims()}))
                 if left]
        return found + [f"disks left: {path}" for host in self.sim.hosts
                        for path in host.driver.place.iterdir()
                        if len(path.name) >= 36 and path.is_dir()
                        and not path.name.startswith("_")
                        and self.control.fields(path.name[:36])]
