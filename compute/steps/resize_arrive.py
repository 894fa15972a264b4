"""flavor, ports, image, disks, domain, power, record: a guest arrives at its new size or host, and
goes back in order when it cannot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, MagnetarError, Refused
from compute.model import states, wire
from compute.model.guest import CachedImage, Nic
from compute.resources.tracker import HERE, MOVE
from compute.rpc.primitives import data
from compute.steps.claim import room_of, told_place
from compute.steps.disks import remove_disks, with_nics
from compute.steps.domain import GENERATION, Domain, PowerOn, generation, power, remove_domain
from compute.steps.guest_volumes import park, settle
from compute.steps.handover import hand_over, seen
from compute.steps.migration_record import FOR_EVER, mark, migration_of
from compute.steps.record import changed_cache, publish, utc
from compute.steps.resize import keep_room, same_host, seen_power, unplug

LOG = logging.getLogger(__name__)
ARRIVING: list[str | None] = [states.RESIZE_MIGRATED, states.RESIZE_FINISH]
SAVE_SECONDS = 5.0  # between two saves of a copy's progress in the Migration


def disk_info(run: Run) -> dict[str, Any]:
    """What the source says of the guest's disks and of itself."""
    try:
        found = json.loads(run.request["args"].get("disk_info") or "{}")
    except ValueError as error:
        raise wire.malformed(f"Argument 'disk_info' is not JSON: {error}.") from error
    return found if isinstance(found, dict) else {}


def stayed_up(run: Run) -> bool:
    """Whether the guest was not stopped for its new size."""
    return bool(disk_info(run).get("live"))


def shall_run(run: Run) -> bool:
    """Whether the guest ran before it was asked to change."""
    return run.guest.system_metadata.get("old_vm_state", states.ACTIVE) != states.STOPPED


def sized(prim: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that give an Instance a Flavor."""
    fields = data(dict(prim))
    return {"flavor": prim, "instance_type_id": fields.get("id"),
            "memory_mb": fields["memory_mb"], "vcpus": fields["vcpus"],
            "root_gb": fields.get("root_gb") or 0,
            "ephemeral_gb": fields.get("ephemeral_gb") or 0}


class Sized(Step):
    """flavor: the record has the new flavor; task ``resize_finish``."""

    name = "flavor"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        fields = data(run.instance)
        flavor = fields.get("new_flavor") or fields["flavor"]
        if not publish(run, {**sized(flavor), "task_state": states.RESIZE_FINISH}, ARRIVING):
            raise Refused(f"Guest {run.row.guest} is no longer to be resized: its task changed.",
                          now="Nothing was made on this host.", code="deleting")

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        former = data(run.instance).get("old_flavor")
        if former:
            publish(run, {**sized(former), "task_state": states.RESIZE_FINISH}, ARRIVING)


class Bound(Step):
    """ports: the guest's ports are on this host, and so are their networks, and its volumes."""

    name = "ports"

    def claims(self, run: Run) -> list:
        nics = {"nics": [asdict(nic) for nic in run.guest.nics]}
        return [("ports", run.row.guest, nics)] if run.guest.nics else []

    def do(self, run: Run) -> list[dict[str, Any]]:
        world, uuid = run.world, run.row.guest
        nics = world.networks.bind(run.context, uuid, world.host) or run.guest.nics
        plain = [asdict(nic) for nic in nics]
        if nics:
            world.journal.claim("ports", uuid, uuid, run.row.id, {"nics": plain})
        for nic in nics:
            world.driver.plug(run.guest, nic)
            self._reserve(run, nic)
        if not same_host(run) or run.row.verb == "resize_back":
            settle(run)
        return plain

    def _reserve(self, run: Run, nic: Nic) -> None:
        for address in nic.addresses if nic.kind == "network" else ():
            run.world.driver.reserve_address(
                nic.source, nic.mac, address.address, run.guest.hostname)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if not same_host(run):
            unplug(run)
            park(run)


class Base(Step):
    """image: the base that overlays refer to is in this host's cache. A guest whose image is gone
    can still come, if its disks refer to none."""

    name = "image"

    def do(self, run: Run) -> dict[str, Any] | None:
        image, driver = run.guest.image, run.world.driver
        if image is None or stayed_up(run):
            return None
        base = driver.cached_image(image)
        if base is None:
            try:
                base = driver.fetch_image(image, run.world.images, _said(run, "image"), run.check)
            except Refused as error:
                if error.code != "image_not_found":
                    raise
                LOG.info("Image %s of guest %s is gone; its disks are taken as they are.",
                         image.id, run.row.guest)
        return asdict(base) if base else None


def _said(run: Run, what: str) -> Any:
    """A progress that is only told to people."""
    told = [0.0]

    def progress(done: int, total: int) -> None:
        now = run.world.clock.now()
        if now - told[0] >= 1:
            told[0] = now
            run.say(f"{what}: {done >> 20} of {total >> 20} MiB")

    return progress


class Progress:
    """Says how far a copy is once a second, and saves it in the Migration now and then."""

    def __init__(self, run: Run):
        self.run, self.saved = run, 0.0
        self.say = _said(run, "disks")

    def __call__(self, done: int, total: int) -> None:
        self.say(done, total)
        now = self.run.world.clock.now()
        if now - self.saved < SAVE_SECONDS:
            return
        self.saved = now
        try:
            mark(self.run, None, disk_total=total, disk_processed=done,
                 disk_remaining=max(total - done, 0))
        except MagnetarError as error:  # a copy does not stop for this
            LOG.info("The progress of guest %s was not saved: %s", self.run.row.guest, error)


class Copied(Step):
    """disks: the guest's disks are here, at their new size; what the source put aside stays."""

    name = "disks"
    attempts = 40  # the source's hypervisor may be away for a while

    def claims(self, run: Run) -> list:
        return [] if stayed_up(run) else [("disks", run.row.guest, {})]

    def do(self, run: Run) -> int:
        if stayed_up(run):
            return 0
        base = run.outcome("image")
        image = run.guest.image
        if base and image and run.resumed and run.world.driver.cached_image(image) is None:
            base = Base().do(run)  # it left the cache while the agent was down
        guest = with_nics(run)
        run.world.driver.copy_disks(guest, self.source(run), CachedImage(**base) if base else None,
                                    Progress(run), run.check)
        return len(run.world.driver.grow_disks(guest))

    def source(self, run: Run) -> str | None:
        """The source's hypervisor; None when its disks are on this machine or on shared storage."""
        facts = disk_info(run)
        if same_host(run):
            return None
        here = run.world.driver.incoming_facts().get("storage")
        if here and facts.get("storage") == here:
            return None
        if not facts.get("uri"):
            raise Failed(
                f"Host {migration_of(run)['source_compute']} does not say how its disks are "
                "reached: its agent is none of ours.", code="no_way")
        return facts["uri"]

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if stayed_up(run) or same_host(run) and not run.world.driver.aside_disks(run.row.guest):
            return  # these are the only ones
        remove_disks(run)


class Arrived(Domain):
    """domain: defined with its new size, one generation on if it changed its host."""

    def __init__(self) -> None:
        super().__init__(keep=False)

    def claims(self, run: Run) -> list:
        if same_host(run):
            return super().claims(run)
        number = int(disk_info(run).get("generation") or 1) + 1
        return [("domain", run.row.guest, {"generation": number, "name": run.guest.name})]

    def do(self, run: Run) -> dict[str, str]:
        if stayed_up(run):
            run.world.driver.resize_live(run.row.guest, run.guest.flavor)
        return super().do(run)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if not same_host(run):  # else the way back defines it with its old size
            remove_domain(run)


class PowerAsBefore(PowerOn):
    """power: running, if the guest ran before."""

    def probe(self, run: Run) -> Probe:
        return super().probe(run) if shall_run(run) else Probe.NO

    def do(self, run: Run) -> None:
        if shall_run(run) and power(run) != states.RUNNING:
            super().do(run)

    def settle(self, run: Run) -> None:
        if shall_run(run):
            super().settle(run)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if not stayed_up(run):
            super().undo(run, kept)


class Resized(Step):
    """record: resized, to be confirmed or reverted. The room of the former size is kept here when
    the guest stayed on its host."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        journal, uuid, fields = run.world.journal, run.row.guest, data(run.instance)
        here = room_of(run, run.guest)
        if same_host(run):
            keep_room(run, wire.flavor(fields["old_flavor"]), here)
        else:
            journal.claim(HERE, uuid, uuid, run.row.id, here)
            journal.release(guest=uuid, kind=MOVE)
        mark(run, "finished")
        changes = {"vm_state": states.RESIZED, "task_state": None,
                   "power_state": seen_power(run), **machine_and_addresses(run),
                   **told_place(run, run.guest)}
        return {"published": publish(run, changes, [states.RESIZE_FINISH])}


def machine_and_addresses(run: Run) -> dict[str, Any]:
    """What the definition and the ports of this host add to the record."""
    fields = data(run.instance)
    machine = {f"image_{key}": value for key, value in (run.outcome("domain") or {}).items()}
    changes: dict[str, Any] = {
        "launched_at": utc(run),
        "system_metadata": {**(fields.get("system_metadata") or {}), **machine,
                            GENERATION: str(generation(run))}}
    nics, cache = run.outcome("ports"), fields.get("info_cache")
    if nics and cache:
        changes["info_cache"] = changed_cache(
            cache, wire.network_info([Nic.from_plain(plain) for plain in nics]))
    return changes


class HandBack(Step):
    """handback: the guest could not arrive and goes back: the source brings its disks back and
    starts it with its old flavor. One that is being deleted is left to the delete."""

    name = "handback"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        journal, uuid = run.world.journal, run.row.guest
        source = migration_of(run)["source_compute"]
        journal.release(guest=uuid, kind=None if source != run.world.host else MOVE)
        if seen(run, source, "resize_back"):
            return
        changes = {"task_state": states.RESIZE_REVERTING, "host": source,
                   "power_state": states.NOSTATE}
        if publish(run, changes, ARRIVING):
            hand_over(run, source, "finish_revert_resize", "resize_back",
                      lambda run: {"request_spec": run.request["args"].get("request_spec")})
