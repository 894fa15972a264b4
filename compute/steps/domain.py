"""domain, power, shutdown: the guest in the hypervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, NeedsOperator
from compute.model import states
from compute.model.guest import Disk
from compute.model.wire import NO_FLAVOR
from compute.steps.attached import reconnected
from compute.steps.claim import devices_of
from compute.steps.disks import with_nics
from compute.steps.serial import PORT, serial_port
from virt.devices import wanted

OFF = (states.SHUTDOWN, states.CRASHED, states.NOSTATE)
ASK_AGAIN_SECONDS = 10.0  # a guest that was still booting did not hear the first request
GENERATION = "magnetar_generation"  # in system_metadata: which incarnation of the guest it is
START_SECONDS, STOP_SECONDS = 60.0, 60.0


def power(run: Run) -> int | None:
    """The guest's power state; None when the hypervisor does not know it."""
    found = run.world.driver.state(run.row.guest)
    return found.power_state if found else None


class Domain(Step):
    """Define the persistent domain, carrying our metadata.

    :param keep: an earlier definition existed and undo leaves it.
    """

    name = "domain"

    def __init__(self, keep: bool = False):
        self.keep = keep

    def claims(self, run: Run) -> list:
        return [("domain", run.row.guest, {"generation": generation(run),
                                           "name": run.guest.name})]

    def do(self, run: Run) -> dict[str, str]:
        guest = replace(with_nics(run), volumes=reconnected(run))
        if guest.flavor is NO_FLAVOR:
            raise Failed(f"The control plane gave no flavor for guest {run.row.guest}.",
                         now="Its definition was not changed.", code="bad_request")
        # One that was here before places and devices were claimed.
        if guest.placement is None or (not guest.devices and wanted(guest)):
            guest = replace(guest, placement=run.world.inventory.place(guest, run.row.id),
                            devices=devices_of(run, guest))
        guest = replace(guest, serial_port=serial_port(run))
        return dict(run.world.driver.define(
            guest, self.disks(run), guest.nics, generation=generation(run), operation=run.row.id))

    def disks(self, run: Run) -> tuple[Disk, ...]:
        """The disks that it has, in their order."""
        return run.world.driver.disks(run.row.guest)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if not self.keep:
            remove_domain(run)


class DomainGone(Step):
    """Remove the domain's definition."""

    name = "domain"

    def do(self, run: Run) -> None:
        remove_domain(run)


def remove_domain(run: Run) -> None:
    """Undefine a domain that is ours; one that is not is left and stays another's."""
    found = run.world.driver.state(run.row.guest)
    if found is not None:
        own(run, found)
        run.world.driver.undefine(run.row.guest)
    run.world.journal.release(guest=run.row.guest, kind=PORT)
    run.world.journal.release(guest=run.row.guest, kind="domain")


def own(run: Run, found: Any) -> None:
    """Raise NeedsOperator when a domain with the guest's uuid does not carry our metadata."""
    if not found.ours:
        raise NeedsOperator(
            f"The domain with uuid {run.row.guest} does not carry our metadata.",
            now="It was not touched.",
            next=f"Look at it with 'virsh dumpxml {run.row.guest}'; when it is really this guest, "
                 f"undefine it by hand, then: magnetar op resolve {run.row.id} --as retry",
            code="not_ours")


def generation(run: Run) -> int:
    """Which incarnation of the guest this is; grows when it changes hosts."""
    claims = run.world.journal.claims(kind="domain", guest=run.row.guest)
    return int(claims[0].data.get("generation", 1)) if claims else 1


class PowerOn(Step):
    """Start the domain, and see it running."""

    name = "power"

    def probe(self, run: Run) -> Probe:
        return Probe.YES if power(run) == states.RUNNING else Probe.NO

    def do(self, run: Run) -> None:
        run.world.driver.power_on(run.row.guest)

    def settle(self, run: Run) -> None:
        run.must(lambda: power(run) == states.RUNNING, START_SECONDS,
                 f"Guest {run.row.guest} running")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        force_off(run)


class Shutdown(Step):
    """Ask the guest to shut down and give it time; what comes next forces it.

    :param seconds_from: name of the [timeouts] option that bounds the wait.
    """

    name = "shutdown"

    def __init__(self, seconds_from: str):
        self.seconds_from = seconds_from

    def do(self, run: Run) -> dict[str, Any]:
        if power(run) != states.RUNNING:
            return {"clean": True}
        seconds = self.seconds(run)
        if seconds <= 0:
            return {"clean": False}
        run.say(f"waiting up to {seconds:g} s for the guest to shut down")
        end = run.world.clock.now() + seconds
        while (left := end - run.world.clock.now()) > 0:
            run.world.driver.shutdown(run.row.guest)
            if run.wait(lambda: power(run) in (*OFF, None) or bool(run.signals.abort),
                        min(ASK_AGAIN_SECONDS, left)):
                break
        return {"clean": power(run) in (*OFF, None)}

    def seconds(self, run: Run) -> float:
        """How long this guest gets."""
        args = run.request["args"]
        if args.get("clean_shutdown") is False or args.get("reboot_type") == "HARD":
            return 0
        limit = getattr(run.world.conf.timeouts, self.seconds_from)
        own_limit = run.guest.prop("os_shutdown_timeout")
        if own_limit and own_limit.isdigit():
            limit = int(own_limit)
        return float(limit)


class PowerOff(Step):
    """Stop the domain by force, if it still runs."""

    name = "off"

    def probe(self, run: Run) -> Probe:
        return Probe.YES if power(run) in (*OFF, None) else Probe.NO

    def do(self, run: Run) -> None:
        force_off(run)

    def settle(self, run: Run) -> None:
        run.must(lambda: power(run) in (*OFF, None), STOP_SECONDS, f"Guest {run.row.guest} off")


def force_off(run: Run) -> None:
    """Power a domain of ours off; quiet when it is off or gone."""
    found = run.world.driver.state(run.row.guest)
    if found is not None and found.power_state not in OFF:
        own(run, found)
        run.world.driver.power_off(run.row.guest)
