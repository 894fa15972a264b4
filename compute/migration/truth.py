"""The truth about a live migration: what both ends show, and what follows from it.

A pure table. After any crash or cut of either agent, libvirtd or link, both halves of the migration
judge by it, so that they come to one verdict. An end that cannot be observed is ``UNKNOWN``, and
nothing that cannot be taken back follows from it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from compute.model import states
from compute.model.guest import GuestState


class End(enum.Enum):
    """What one end shows of the guest."""

    RUNNING = "running"
    LEAVING = "leaving"  # it is here, or stands still here, and a migration out is going on
    HANDED = "handed over"  # it stands still here, since it went on at the other end
    BROKEN = "post-copy broken"  # it stands still here; the other end misses memory of it
    RECEIVING = "receiving"  # it is being received and has not run here
    STILL = "standing still"  # paused here by its tenant, no migration going on
    HELD = "held"  # the hypervisor let it go on after the switch-over, and its agent stopped it
    OFF = "off"  # defined here and shut off
    ABSENT = "absent"  # the hypervisor positively does not know it
    UNKNOWN = "unknown"  # it cannot be observed


class Act(enum.Enum):
    """What follows."""

    CONTINUE = "continue"  # the migration goes on: attach to it again
    DONE = "done"  # the guest is at the destination: go forward
    UNDONE = "undone"  # the guest is at the source: undo what was prepared
    STOP = "stop"  # stop what the destination still receives, then judge again
    RECOVER = "recover"  # post-copy broke: it is continued, never rolled back
    WAIT = "wait"  # a fact is missing
    OPERATOR = "operator"  # a person has to decide


@dataclass(frozen=True)
class Judgement:
    """What follows from two ends, by which row of the table, and why."""

    act: Act
    row: str
    reason: str


POSTCOPY_REASONS = ("postcopy", "postcopy_failed")
MOVED_REASONS = ("migrated",)
HANDING_REASONS = ("migration", "migrated", "postcopy")
LET_GO_ON = "migration_canceled"  # it was stopped for the switch-over, and goes on at the source


def end_of(state: GuestState | None, *, source: bool) -> End:
    """What a hypervisor's word on a domain means at one end of its migration.

    Source of the words: libvirt's virDomainState and its reasons (``paused`` with ``migration``,
    ``postcopy`` or ``postcopy_failed``; ``shutoff`` with ``migrated``).
    """
    if state is None:
        return End.ABSENT
    power, reason = state.power_state, state.reason
    if power in (states.SHUTDOWN, states.CRASHED):
        return End.HANDED if source and reason in MOVED_REASONS else End.OFF
    if reason == "postcopy_failed":
        return End.BROKEN if source else End.RUNNING
    if source and state.job == "out":  # in post-copy too: the other end still needs this one
        return End.LEAVING
    # Without a job: libvirtd was started anew after all had been sent, and leaves it standing.
    if source and power == states.POWER_PAUSED and reason in HANDING_REASONS:
        return End.HANDED
    if not source and power != states.RUNNING and (
            state.job == "in" or reason in ("migration", "starting_up")):
        return End.RECEIVING
    if power == states.RUNNING:
        return End.RUNNING
    return End.STILL


HERE = (End.RUNNING, End.STILL)


def judge(source: End, target: End, taken: bool = False) -> Judgement:
    """What follows from what both ends show.

    :param taken: the destination has made the guest its own, in its journal.
    """
    if taken and source is End.OFF and target is End.OFF:
        return Judgement(Act.DONE, "off-at-target", "The guest moved, and is off now.")
    if taken and source in HERE and target in HERE:
        return Judgement(Act.DONE, "two-taken", "The destination has made the guest its own, and "
                         "libvirt let it go on at the source as well, where it is stopped.")
    if End.UNKNOWN in (source, target):
        which = "source" if source is End.UNKNOWN else "destination"
        return Judgement(Act.WAIT, "unknown", f"The {which} cannot be observed now.")
    if source is End.BROKEN:
        if target in HERE:
            return Judgement(Act.RECOVER, "broken", "The guest runs at the destination and misses "
                             "memory that only the source has: post-copy is continued.")
        return Judgement(Act.OPERATOR, "broken-lost", "Post-copy broke, and the destination does "
                         "not run the guest: neither end has all of its memory.")
    if source is End.LEAVING:
        return Judgement(Act.CONTINUE, "leaving", "The hypervisor still works on the migration.")
    if source is End.HELD and target in HERE:
        return Judgement(Act.DONE, "held", "The guest went on at the destination, and is held at "
                         "the source.")
    if source in HERE or source is End.HELD:
        return _guest_at_source(source, target)
    return _guest_left(source, target)


def _guest_at_source(source: End, target: End) -> Judgement:
    if target in HERE:
        return Judgement(Act.OPERATOR, "two", f"The guest is {source.value} at the source and "
                         f"{target.value} at the destination.")
    if target is End.RECEIVING:
        return Judgement(Act.STOP, "receiving", "The guest is at the source and nothing is sent "
                         "any more; the destination still waits for it.")
    return Judgement(Act.UNDONE, "at-source", f"The guest is {source.value} at the source.")


def _guest_left(source: End, target: End) -> Judgement:
    """The source does not run it: handed over, off or absent."""
    if target in HERE:
        return Judgement(Act.DONE, "arrived", f"The guest is {target.value} at the destination, "
                         f"and {source.value} at the source.")
    if target is End.RECEIVING:
        if source is End.OFF:  # it died there; what arrived is no whole guest
            return Judgement(Act.STOP, "died-receiving", "The guest went off at the source before "
                             "it had arrived.")
        return Judgement(Act.WAIT, "arriving", "The source handed the guest over; the destination "
                         "has not let it run yet.")
    if source is End.OFF:
        return Judgement(Act.UNDONE, "off-at-source", "The guest went off at the source.")
    if target is End.OFF:
        return Judgement(Act.DONE, "off-at-target", "The guest moved, and is off now.")
    return Judgement(Act.OPERATOR, "lost", f"The guest is {source.value} at the source and absent "
                     "at the destination.")
