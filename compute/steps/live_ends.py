"""switched, domain, console, ports, disks, completed: what the source does when its guest has
arrived."""

from __future__ import annotations

import logging
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Failed, MagnetarError, NeedsOperator, Refused, Unknown
from compute.migration.monitor import forget
from compute.migration.truth import End, end_of
from compute.steps.domain import remove_domain
from compute.steps.live_source import PATIENT, destination_of, look
from compute.steps.migration_record import mark
from compute.steps.ports import nics_of

LOG = logging.getLogger(__name__)
MOST_TRIES = 10  # how often a console log is sent, for a minute and a half if nobody answers
STILL_SECONDS = 0.2  # a log that has not grown for so long has been written to its end


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
        if found is not None and look(run).row in ("two-taken", "held"):
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


class ConsoleLeft(Step):
    """console: what the guest wrote to its console until it left; the destination puts it before
    what it has written there. A log is worth less than a guest: when it cannot be brought over, its
    loss is noted, and the operation goes on."""

    name = "console"

    def do(self, run: Run) -> dict[str, Any] | None:
        if shares_disks(run):
            return None
        try:
            run.world.peers.ask(
                destination_of(run), "peer_console", guest=run.row.guest,
                generation=run.outcome("strategy")["plan"]["generation"], console=self.whole(run))
        except MagnetarError as error:
            if run.row.attempts + 1 < MOST_TRIES and not isinstance(error, Refused):
                raise Unknown(f"The console log is not at host {destination_of(run)} yet: "
                              f"{error.what}", code=error.code) from error
            note = (f"What the guest wrote to its console while it moved is lost: {error.what} "
                    "What it wrote before that is there.")
            LOG.warning("Live migration of guest %s: %s", run.row.guest, note)
            return {"note": note}
        return None

    @staticmethod
    def whole(run: Run) -> str:
        """The log, packed, once the last of it has been written: QEMU has ended, but its lines
        reach the file through another process."""
        log = run.world.driver.outgoing_console(run.row.guest)
        for _ in range(MOST_TRIES):
            run.world.clock.wait(STILL_SECONDS)
            before, log = log, run.world.driver.outgoing_console(run.row.guest)
            if log == before:
                break
        return log


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
        if not shares_disks(run):
            run.world.driver.delete_disks(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind="disks")


def shares_disks(run: Run) -> bool:
    """Whether source and destination see the same directory of the guest."""
    return bool((run.outcome("destination") or {}).get("shared"))


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
