"""switched, domain, ports, disks, completed: what the source does when its guest has arrived."""

from __future__ import annotations

from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Failed, NeedsOperator, Refused, Unknown
from compute.migration.monitor import forget
from compute.migration.truth import End, end_of
from compute.steps.domain import remove_domain
from compute.steps.live_source import PATIENT, destination_of, look
from compute.steps.migration_record import mark
from compute.steps.ports import nics_of


class Switched(Step):
    """switched: the destination makes the guest its own, here and in the control plane's record.

    It does so by itself as well, when it sees the guest run; asked again it says so.
    """

    name = "switched"
    attempts = PATIENT

    def do(self, run: Run) -> None:
        try:
            run.world.peers.call(
                run.context, destination_of(run), "post_live_migration_at_destination",
                instance=run.instance,
                block_migration=bool(run.request["args"].get("block_migration")))
        except (Failed, Refused) as error:
            raise Unknown(f"Host {destination_of(run)} has not taken guest {run.row.guest} over: "
                          f"{error.what}", next="It is asked again.", code=error.code) from error


class DomainLeft(Step):
    """domain: no definition of the guest stays here. libvirt removes it at the end of a migration,
    unless its daemon was restarted in the middle; when the destination's was, it lets the guest go
    on here, though it runs there. The destination has just said that the guest is its own."""

    name = "domain"

    def do(self, run: Run) -> None:
        found = run.world.driver.state(run.row.guest)
        if found is not None and look(run).row == "two-taken":
            run.say("libvirt let it go on here as well as there; it is stopped here")
            run.world.driver.power_off(run.row.guest)
            found = run.world.driver.state(run.row.guest)
        if found is not None and end_of(found, source=True) not in (End.HANDED, End.OFF):
            raise NeedsOperator(
                f"Guest {run.row.guest} is still {end_of(found, source=True).value} here, though "
                f"host {destination_of(run)} has taken it over.",
                now="Nothing of it was removed here.",
                next=f"Look at 'virsh domstate --reason {run.row.guest}' on both hosts, stop the "
                     f"copy that is wrong, then: magnetar op resolve {run.row.id} --as retry",
                code="two_copies")
        remove_domain(run)


class PortsLeft(Step):
    """ports: what the guest's NICs were attached to here; the ports themselves moved along."""

    name = "ports"

    def do(self, run: Run) -> None:
        for nic in nics_of(run):
            run.world.driver.unplug(run.row.guest, nic)
            if nic.kind == "network":
                run.world.driver.release_address(nic.source, nic.mac)
        run.world.journal.release(guest=run.row.guest, kind="ports")


class DisksLeft(Step):
    """disks: the copies that stayed behind, unless both hosts share them. The destination has
    said that the guest runs on its own."""

    name = "disks"

    def do(self, run: Run) -> None:
        if not (run.outcome("destination") or {}).get("shared"):
            run.world.driver.delete_disks(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind="disks")


class MigrationEnd(Step):
    """migration: how it ended, in its record.

    :param status: Nova's word; None: ``cancelled`` when somebody stopped it, else ``failed``.
    """

    name = "migration"
    attempts = PATIENT

    def __init__(self, status: str | None = None):
        self.status = status

    def do(self, run: Run) -> Any:
        forget(run)
        code = (run.row.error or {}).get("code")
        mark(run, self.status or ("cancelled" if code == "aborted" else "failed"))
