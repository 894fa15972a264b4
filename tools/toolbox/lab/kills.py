"""Real kills during live migrations of a real guest: what is killed, when, and what came of it.

A :class:`Case` is one moment of one migration and one victim. :func:`play` carries it out in a
lab of two hosts and judges what both hosts, the guest and the control plane show afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import libvirt

from compute.errors import MagnetarError
from tools.toolbox.lab import guest as guests
from tools.toolbox.lab.guest import LabGuest, broken, until
from tools.toolbox.lab.host import LabHost
from tools.toolbox.lab.lab import Lab
from tools.toolbox.lab.place import LabError

BEGIN, SWITCH, POSTCOPY, FINISH = "begin", "switch-over", "post-copy", "finish"
COPY = {"10 %": 0.1, "50 %": 0.5, "90 %": 0.9}
MOMENTS = (BEGIN, *COPY, SWITCH, POSTCOPY, FINISH)
VICTIMS = ("source agent", "destination agent", "source libvirtd", "destination libvirtd",
           "source QEMU", "destination QEMU", "broker", "migration link", "both links")
MBIT = 180  # of the migration link: a copy takes five to eight seconds
DOWNTIME_MS = 3000  # long enough for the switch-over to be met
RESTART_SECONDS = 1.0  # until a service manager starts again what died
CONVERGE_SECONDS = 60.0
CUT_SECONDS = (5.0, 20.0, 40.0)  # below and above what keepalive and lease allow
MOMENT_SECONDS = 60.0
KILLABLE = "tests.integration.killable_agent"
# Where agents die at the end of a migration; rounds take turns.
FINISH_POINTS = {
    "source agent": ("live_out.switched.after_intent", "live_out.domain.after_effect",
                     "live_out.disks.after_intent", "live_out.migration.after_effect"),
    "destination agent": ("live_in.domain.after_intent", "live_in.record.after_effect",
                          "live_in.domain.after_effect", "live_in.migration.after_intent"),
}
# QEMU without KVM may miss what a guest writes to pages that were in its TLB when a migration began
# (cured in part in QEMU 9.0): its kernel then panics at the destination. Without global pages the
# TLB is emptied at each change of process, which makes it rare. An answer that died with the broker
# is asked for again after the timeout.
OPTIONS: dict[str, dict[str, object]] = {
    "libvirt": {"live_migration_permit_post_copy": "true", "cpu_model_extra_flags": "-pge"},
    "timeouts": {"conductor": 15},
}


@dataclass(frozen=True)
class Case:
    """What is killed when; ``number`` counts its repetitions from 0."""

    moment: str
    victim: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.victim} at {self.moment} #{self.number}"

    @property
    def may_die(self) -> bool:
        """Whether the guest has no right to survive: the QEMU that has it, or half of its memory,
        was killed. At the switch-over it may be either."""
        if self.victim == "source QEMU":
            return self.moment != FINISH
        if self.victim == "destination libvirtd":  # ends a guest that it was about to let go on
            return self.moment == POSTCOPY
        return self.victim == "destination QEMU" and self.moment in (SWITCH, POSTCOPY, FINISH)

    @property
    def may_ask(self) -> bool:
        """Whether an operator may be asked: both hosts had memory of it, and one lost its part."""
        return self.may_die and self.moment == POSTCOPY


@dataclass(frozen=True)
class Outcome:
    """What came of it. ``result``: moved, stayed, or off (and booted again, its disk sound), after
    "asked" if an operator had to end what was left of the guest; ``seconds`` from the repair until
    all had converged; ``status`` of the migration."""

    result: str
    status: str
    seconds: float


class Missed(LabError):
    """The migration had ended before its moment came; nothing was killed."""


class Panicked(LabError):
    """The guest's kernel panicked: what QEMU without KVM may do to a guest that it moves; see
    OPTIONS. Nothing can be told of the case."""


def cases(times: int = 1) -> list[Case]:
    """All of them, ``times`` each."""
    return [Case(moment, victim, number) for number in range(times)
            for moment, victim in itertools.product(MOMENTS, VICTIMS)]


def play(guest: LabGuest, case: Case) -> Outcome:
    """Move the guest to the other host, with a kill on the way.

    :raises Missed: when the moment did not come.
    :raises Panicked: see there; the guest is of no use any more.
    :raises LabError: what is not as it must be CONVERGE_SECONDS after the repair.
    """
    source, target = guest.host(), guest.other()
    before = guest.counts_on()
    points = FINISH_POINTS.get(case.victim, ())
    point = points[case.number % len(points)] if case.moment == FINISH and points else ""
    if point:
        armed = source if case.victim == "source agent" else target
        armed.agent.stop()
        armed.start_agent({"MAGNETAR_KILL_AT": point}, KILLABLE)
    source.limit("migration", MBIT)
    try:
        guest.call("live_migrate", host=target.name)
        if point:
            if not armed.agent.died(MOMENT_SECONDS):
                raise Missed(f"{case}: {point} was not reached.")
        else:
            await_moment(guest, source, target, case.moment)
        strike(guest, source, target, case)
        return judged(guest, source, case, before)
    except LabError as error:
        if any(broken(guest.console(host)) for host in (source, target)):
            raise Panicked(f"{case}: the guest's kernel panicked. {error}") from error
        raise
    finally:
        source.limit("migration", None)


# -- the moment -------------------------------------------------------------------------------


def await_moment(guest: LabGuest, source: LabHost, target: LabHost, moment: str) -> None:
    """Return when the migration is there. Raises Missed, also when it never was."""
    if moment == BEGIN:
        def begun() -> bool:
            shown = guest.call("migration_progress")
            if shown["ended"]:
                raise Missed(f"The migration is {shown['status']}.")
            return (shown["progress"] or {}).get("step") == "transfer"

        until(begun, MOMENT_SECONDS, "the transfer begins", every=0.02)
        return
    with _domains(guest, source, target) as (leaving, arriving):
        deadline, eased = time.monotonic() + MOMENT_SECONDS, False
        while not _reached(moment, leaving, arriving):
            if moment in (SWITCH, POSTCOPY) and not eased and _share(leaving) > 0.3:
                eased = True
                if moment == SWITCH:
                    leaving.migrateSetMaxDowntime(DOWNTIME_MS)
                else:
                    guest.call("migration_force_complete")
            if time.monotonic() > deadline:
                raise Missed(f"No {moment} was seen in {MOMENT_SECONDS:g} s.")
            time.sleep(0.01)


@contextlib.contextmanager
def _domains(guest: LabGuest, source: LabHost, target: LabHost) -> Iterator[tuple]:
    """Both ends' domains; the destination's is a callable, since it comes late."""
    libvirt.registerErrorHandler(lambda context, error: None, None)  # what is not there yet
    here, there = source.libvirt(), target.libvirt()
    try:
        def arriving() -> int:
            try:
                return there.lookupByUUIDString(guest.uuid).state()[0]
            except libvirt.libvirtError:
                return libvirt.VIR_DOMAIN_NOSTATE

        yield here.lookupByUUIDString(guest.uuid), arriving
    finally:
        here.close()
        there.close()


def _reached(moment: str, leaving: libvirt.virDomain, arriving: Callable[[], int]) -> bool:
    if moment == FINISH:
        return arriving() == libvirt.VIR_DOMAIN_RUNNING
    if moment in COPY:
        return _share(leaving) >= COPY[moment]
    try:
        state, reason = leaving.state()
    except libvirt.libvirtError as error:
        raise Missed(f"The guest has left before its {moment} was seen.") from error
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return False
    if moment == POSTCOPY:
        return reason == libvirt.VIR_DOMAIN_PAUSED_POSTCOPY \
            and arriving() == libvirt.VIR_DOMAIN_RUNNING
    return reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION


def _share(leaving: libvirt.virDomain) -> float:
    """How much of the memory has gone over, from 0 to 1."""
    try:
        stats = leaving.jobStats()
    except libvirt.libvirtError as error:
        raise Missed("The guest has left before.") from error
    total = stats.get("memory_total") or 0
    return 1 - stats.get("memory_remaining", total) / total if total else 0.0


# -- the kill, and what a service manager or an operator does after it ---------------------------


def strike(guest: LabGuest, source: LabHost, target: LabHost, case: Case) -> None:
    """Kill the victim and start it again, as a service manager does; a link is mended later."""
    side, _, what = case.victim.partition(" ")
    host = target if side == "destination" else source  # of those that have a side
    if what == "QEMU":
        if case.moment == BEGIN:  # the destination's is started a moment later
            until(lambda: host.qemu(guest.uuid), 10, f"{host.name} has a QEMU", every=0.01)
        process = host.qemu(guest.uuid)
        if process is None or not process.signal(9) or not process.wait(10):
            raise Missed(f"{host.name} has no QEMU of the guest at {case.moment}.")
    elif what in ("link", "links"):
        links = ("migration", "management") if side == "both" else ("migration",)
        for link in links:
            source.cut(link, silent=bool(case.number % 2))
        time.sleep(CUT_SECONDS[case.number % len(CUT_SECONDS)])
        for link in links:
            source.restore(link)
        source.limit("migration", None)
    else:
        service = getattr(host, what) if what else guest.lab.broker
        service.kill()
        time.sleep(RESTART_SECONDS)
        service.start(wait=False)


# -- what has to be true afterwards ----------------------------------------------------------


def judged(guest: LabGuest, source: LabHost, case: Case, before: int) -> Outcome:
    """Wait until all has converged, and check it. Raises LabError with what has not."""
    began = time.monotonic()
    left: list[str] = ["nothing was asked yet"]
    asked: list[str] = []

    def converged() -> bool:
        left[:] = _open_ends(guest)
        if left and case.may_ask:
            asked.extend(obey(guest))
        return not left

    try:
        until(converged, CONVERGE_SECONDS, "converged", every=0.25)
    except LabError as error:
        raise LabError(f"{case}: not converged: {'; '.join(left)}. {error}") from error
    seconds = time.monotonic() - began
    status, copies = guest.migration()["status"], guest.copies()
    result = "stayed" if guest.host().name == source.name else "moved"
    if copies:
        guest.counts_on(before)
    elif not case.may_die:
        raise LabError(f"{case}: no copy of the guest is left.")
    else:
        result = f"off, {result}"
        revive(guest, before)
    if asked:
        result = f"asked, {result}"
    return Outcome(result, status, round(seconds, 1))


def _open_ends(guest: LabGuest) -> list[str]:
    """What has not converged yet; [] when all has."""
    try:
        shown, move, copies = guest.show(), guest.migration(), guest.copies()
        found = []
        if shown["task_state"] is not None:
            found.append(f"its task is {shown['task_state']}")
        if not move["ended"]:
            found.append(f"its migration is {move['status']}")
        expected = [shown["host"]] if shown["vm_state"] == "active" else []
        if copies != expected:
            found.append(f"it is {shown['vm_state']} on {shown['host']}, with copies on {copies}")
        return found or guest.unsettled() or guest.residue()
    except (MagnetarError, OSError) as error:
        return [str(error)]


def obey(guest: LabGuest) -> list[str]:
    """Do what operations that need an operator ask for: end what is left of a guest whose memory is
    lost, then let them look again. Returns what they said."""
    said = []
    for host in guest.lab.hosts:
        client = host.client(timeout=10)
        try:
            for op in client.call("op.list"):
                if op["state"] != "needs_operator":
                    continue
                for other in guest.lab.hosts:
                    other.run("virsh", "destroy", guest.uuid, check=False)
                client.call("op.resolve", op=op["id"], as_="retry", reason="its memory is lost")
                said.append(str(op["verb"]))
        finally:
            client.close()
    return said


def revive(guest: LabGuest, before: int) -> None:
    """The guest's only copy was killed: its disk is sound, and it boots from it and counts on."""
    guest.disk_is_sound()
    guest.call("start" if guest.show()["vm_state"] == "stopped" else "reboot", **(
        {} if guest.show()["vm_state"] == "stopped" else {"hard": True}))
    guest.settled("active")
    guest.counts_on(before, 90)


def lab_with_guest(lab: Lab, name: str = "wanderer") -> LabGuest:
    """The guest of a lab that is up, made when it is not there yet."""
    guests.prepare(lab)
    known = [server["name"] for server in lab.client().call("server.list")]
    return LabGuest(lab, name) if name in known else LabGuest.create(lab, name)


def recover_from_miss(guest: LabGuest) -> None:
    """Let a migration whose moment was missed come to its end."""
    guest.settled("active")
    guest.clean(CONVERGE_SECONDS)
