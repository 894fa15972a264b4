"""pause, unpause, devices, memory, power, time: a guest put to sleep, and woken.

A guest's memory is the one thing that cannot be made again. It is never dropped on the way into
sleep or out of it: what cannot go on goes back to where the memory is, in QEMU or on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, MagnetarError, NeedsOperator, Refused, Retryable, Unknown
from compute.model import states
from compute.model.guest import GuestState
from compute.rpc.primitives import data as fields_of
from compute.steps.attached import reconnected
from compute.steps.domain import OFF, START_SECONDS, own, power
from compute.steps.record import Record, Restore, publish

LOG = logging.getLogger(__name__)
AWAKE = (states.RUNNING, states.POWER_PAUSED)  # its memory is in QEMU
UNPLUGGED = "unplugged"  # kind of the claim that lists devices until they are back
OLD_STATE = "old_vm_state"  # Nova's key: what a suspended guest was before
PAUSE_SECONDS = 30.0
GLANCE = 1.0  # seconds between two looks at the save of a large guest


# -- what is seen ---------------------------------------------------------------------------------
def domain(run: Run) -> GuestState | None:
    """The guest's domain, which has to be ours; None when the hypervisor does not know it."""
    found = run.world.driver.state(run.row.guest)
    if found is not None:
        own(run, found)
    return found


def is_awake(run: Run) -> bool:
    """Whether the guest's memory is in QEMU."""
    found = domain(run)
    return found is not None and found.power_state in AWAKE


def is_saved(found: GuestState | None) -> bool:
    """Whether a domain is off with its memory on disk."""
    return found is not None and found.power_state in OFF and found.saved


def need_awake(run: Run, doing: str) -> None:
    """Raise Failed(code='not_running') unless the guest's memory is in QEMU."""
    found = domain(run)
    if found is None or found.power_state in OFF:
        raise Failed(f"Guest {run.row.guest} does not run, so it cannot be {doing}.",
                     now="Nothing was changed.", next="Start or reboot it.", code="not_running")


# -- pause, unpause -------------------------------------------------------------------------------
class Pause(Step):
    """The guest's CPUs stand; its memory stays where it is."""

    name = "pause"

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"ran": power(run) == states.RUNNING}

    def probe(self, run: Run) -> Probe:
        return Probe.YES if power(run) == states.POWER_PAUSED else Probe.NO

    def do(self, run: Run) -> None:
        need_awake(run, "paused")
        run.world.driver.pause(run.row.guest)

    def settle(self, run: Run) -> None:
        run.must(lambda: power(run) in (states.POWER_PAUSED, *OFF, None), PAUSE_SECONDS,
                 f"Guest {run.row.guest} paused")
        need_awake(run, "paused")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if data.get("ran") and power(run) == states.POWER_PAUSED:
            run.world.driver.resume(run.row.guest)


class Unpause(Step):
    """The guest's CPUs go on."""

    name = "unpause"

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"stood": power(run) == states.POWER_PAUSED}

    def probe(self, run: Run) -> Probe:
        return Probe.YES if power(run) == states.RUNNING else Probe.NO

    def do(self, run: Run) -> None:
        need_awake(run, "let run")
        run.world.driver.resume(run.row.guest)

    def settle(self, run: Run) -> None:
        if run.wait(lambda: power(run) == states.RUNNING, PAUSE_SECONDS):
            return
        need_awake(run, "let run")
        found = run.world.driver.state(run.row.guest)
        raise Failed(f"Guest {run.row.guest} was let run, and is paused again "
                     f"({found.reason if found else 'gone'}).",
                     next="Look at its storage, then ask again.", code="paused_again")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if data.get("stood") and power(run) == states.RUNNING:
            run.world.driver.pause(run.row.guest)


# -- devices that cannot be saved -----------------------------------------------------------------
def unplugged(run: Run) -> list[str]:
    """The devices that the journal says are out, or about to be."""
    return [device for claim in run.world.journal.claims(kind=UNPLUGGED, guest=run.row.guest)
            for device in claim.data.get("devices", ())]


def plug_back(run: Run) -> list[str]:
    """Put all devices back that are out; those that do not go in stay claimed and are returned."""
    left = []
    for device in unplugged(run):
        try:
            run.world.driver.plug_device(run.row.guest, device)
        except (Failed, Refused) as error:
            LOG.warning("Guest %s goes on without a device: %s", run.row.guest, error)
            left.append(device)
    if left:
        run.world.journal.claim(UNPLUGGED, run.row.guest, run.row.guest, run.row.id,
                                {"devices": left})
    else:
        run.world.journal.release(guest=run.row.guest, kind=UNPLUGGED)
    return left


class Unplug(Step):
    """devices: take out what cannot be saved. The claim lists them until they are back."""

    name = "devices"

    def claims(self, run: Run) -> list:
        out = unplugged(run)
        if is_awake(run):
            out += [device for device in run.world.driver.unsaveable(run.row.guest)
                    if device not in out]
        return [(UNPLUGGED, run.row.guest, {"devices": out})] if out else []

    def do(self, run: Run) -> int:
        out = unplugged(run) if is_awake(run) else []
        for device in out:
            run.world.driver.unplug_device(run.row.guest, device)
        return len(out)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if is_awake(run):
            plug_back(run)
        elif not is_saved(domain(run)):  # it boots with all of them
            run.world.journal.release(guest=run.row.guest, kind=UNPLUGGED)


class Replug(Step):
    """devices: put back what was taken out. A device that does not go in is no reason to keep the
    guest from its owner: it stays claimed, and is reported."""

    name = "devices"

    def do(self, run: Run) -> dict[str, Any]:
        return {"left": plug_back(run) if is_awake(run) else unplugged(run)}


# -- memory ---------------------------------------------------------------------------------------
class Save(Step):
    """memory: written to disk by the hypervisor, which then stops the guest."""

    name = "memory"

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"power": power(run)}

    def probe(self, run: Run) -> Probe:
        """A save that goes on without us counts: settle waits for it."""
        found = domain(run)
        return Probe.YES if is_saved(found) or is_saving(found) else Probe.NO

    def do(self, run: Run) -> None:
        if not is_saved(domain(run)):
            need_awake(run, "suspended")
            save(run)

    def settle(self, run: Run) -> None:
        until_saved(run)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if is_saving(domain(run)):
            run.world.driver.abort_job(run.row.guest)
            run.must(lambda: not is_saving(domain(run)), seconds(run),
                     f"The end of the save of guest {run.row.guest}")
        if data.get("power") in AWAKE and wake(run, data["power"]):
            set_time(run)


def is_saving(found: GuestState | None) -> bool:
    """Whether a domain's memory is being written to disk."""
    return found is not None and found.job == "save"


def seconds(run: Run) -> float:
    """How long writing this guest's memory may take."""
    return float(run.world.conf.suspend_seconds)


def save(run: Run) -> None:
    """Write the memory to disk. An abort is heeded within GLANCE; the save goes on then, until it
    is told to stop as well."""
    run.say("writing the guest's memory to disk")
    end = run.world.clock.now() + seconds(run)
    while True:
        try:
            run.world.driver.save(run.row.guest, GLANCE)
            return
        except Unknown:
            found = domain(run)
            if is_saved(found):
                return
            if run.world.clock.now() > end or not is_saving(found):
                raise
        run.wait(lambda: not is_saving(domain(run)), GLANCE)


def until_saved(run: Run) -> None:
    """Wait for a save to end. Raises Retryable when it ended without a saved memory."""
    run.must(lambda: not is_saving(domain(run)), seconds(run),
             f"The memory of guest {run.row.guest} on disk")
    found = domain(run)
    if not is_saved(found):
        raise Retryable(
            f"The memory of guest {run.row.guest} was not saved; the hypervisor ended the save.",
            next="See the hypervisor's log, and whether its disk has room for the memory.",
            code="not_saved")


def wake(run: Run, wanted: int) -> bool:
    """Let a guest go on from its saved memory, running or paused as it was. Returns whether it had
    been asleep."""
    asleep = is_saved(domain(run))
    if asleep:
        run.world.driver.power_on(run.row.guest)
        run.must(lambda: is_awake(run), START_SECONDS, f"Guest {run.row.guest} awake")
    if wanted == states.RUNNING and power(run) == states.POWER_PAUSED:
        run.world.driver.resume(run.row.guest)
    return asleep


class Wake(Step):
    """power: the guest goes on from its saved memory. Its undo saves the memory again."""

    name = "power"

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"saved": is_saved(domain(run))}

    def probe(self, run: Run) -> Probe:
        return Probe.YES if power(run) == self.wanted(run) else Probe.NO

    def do(self, run: Run) -> None:
        found = domain(run)
        if not is_saved(found) and (found is None or found.power_state not in AWAKE):
            raise Failed(f"The saved memory of guest {run.row.guest} is not on this host.",
                         now="It was not started; its disks are as they were.",
                         next="A hard reboot boots it from its disks.", code="memory_missing")
        reconnected(run)  # the host may have been started anew
        wake(run, self.wanted(run))

    def settle(self, run: Run) -> None:
        """Paused counts too: a guest whose storage fails is paused again, and that is reported."""
        run.must(lambda: is_awake(run), START_SECONDS, f"Guest {run.row.guest} awake")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if data.get("saved") and (is_awake(run) or is_saving(domain(run))):
            if not is_saving(domain(run)):
                save(run)
            until_saved(run)

    @staticmethod
    def wanted(run: Run) -> int:
        """The power state that the guest had before it was suspended."""
        return states.POWER_PAUSED if old_vm_state(run) == states.PAUSED else states.RUNNING


class Discard(Step):
    """memory: what was saved is given up, so that the next start is a boot with all devices."""

    name = "memory"

    def do(self, run: Run) -> dict[str, Any]:
        found = domain(run)
        saved = found is not None and found.saved
        if saved:
            run.world.driver.discard_saved(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind=UNPLUGGED)
        return {"discarded": saved}


# -- time -----------------------------------------------------------------------------------------
class Time(Step):
    """The guest's clock stood while it slept: set it, where an agent in the guest answers."""

    name = "time"

    def do(self, run: Run) -> dict[str, Any]:
        return {"set": set_time(run)}


def set_time(run: Run) -> bool:
    """Set a running guest's clock. A guest whose clock cannot be set runs all the same."""
    if power(run) != states.RUNNING:
        return False
    try:
        return run.world.driver.sync_time(run.row.guest)
    except NeedsOperator:
        raise
    except MagnetarError as error:
        LOG.info("The clock of guest %s is not set: %s", run.row.guest, error)
        return False


# -- what is told ---------------------------------------------------------------------------------
def old_vm_state(run: Run) -> str:
    """What a suspended guest was before. The request is asked first: once our word is out, the
    record does not say it any more."""
    for prim in (run.request["args"]["instance"], run.instance):
        kept = fields_of(prim).get("system_metadata") or {}
        if kept.get(OLD_STATE):
            return kept[OLD_STATE]
    return states.ACTIVE


class Suspended(Record):
    """The guest is suspended; what it was before is kept for its resume."""

    def __init__(self) -> None:
        super().__init__(states.SUSPENDED, [states.SUSPENDING])

    def more(self, run: Run) -> Mapping[str, Any]:
        before = (run.outcome("admission") or {}).get("vm_state")
        if before in (None, states.SUSPENDED):
            before = old_vm_state(run)
        kept = fields_of(run.instance).get("system_metadata") or {}
        return {"system_metadata": {**kept, OLD_STATE: before}}


class Resumed(Record):
    """The guest is what it was before it was suspended."""

    def __init__(self) -> None:
        super().__init__(states.ACTIVE, [states.RESUMING])

    def more(self, run: Run) -> Mapping[str, Any]:
        kept = fields_of(run.instance).get("system_metadata") or {}
        return {"vm_state": old_vm_state(run),
                "system_metadata": {k: v for k, v in kept.items() if k != OLD_STATE}}


class Unharmed(Restore):
    """No task any more. The guest stays what it was while its memory is in QEMU or on disk; without
    it, it is in error."""

    def do(self, run: Run) -> None:
        found = run.world.driver.state(run.row.guest)
        changes: dict[str, Any] = {
            "task_state": None, "power_state": found.power_state if found else states.NOSTATE}
        if not is_saved(found) and changes["power_state"] not in AWAKE:
            changes["vm_state"] = states.ERROR
        publish(run, changes, self.expected)
