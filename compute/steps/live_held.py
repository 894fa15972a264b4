"""A guest that was let go on after the switch-over is held until the destination has been seen.

libvirt lets the guest go on at the source when it does not hear that it goes on at the destination.
It may do so all the same, when the destination's libvirtd died or the link broke just then: two
copies would run. So it stands still at the source until the destination shows what became of it.
The driver stops it in the moment in which a migration that it began fails so; these steps find one
that was let go on while no agent was there.
"""

from __future__ import annotations

import logging

from compute.engine.run import Run
from compute.migration.monitor import HELD
from compute.migration.truth import LET_GO_ON, End, end_of
from compute.model import states
from compute.rpc.primitives import data

LOG = logging.getLogger(__name__)


def hold(run: Run) -> None:
    """Let the guest stand still if it was stopped for the switch-over and goes on here, and write
    down that it stands still for this."""
    found = run.world.driver.state(run.row.guest)
    if found is None or found.job or _claimed(run):
        return
    goes_on = found.power_state == states.RUNNING and found.reason == LET_GO_ON
    if not goes_on and not held(run, end_of(found, source=True)):
        return
    run.world.journal.claim(HELD, run.row.guest, run.row.guest, run.row.id, {})
    if goes_on:
        run.world.driver.pause(run.row.guest)
    LOG.warning("Guest %s was let go on here after the switch-over, and may go on at the "
                "destination: it is held until that is seen.", run.row.guest)
    run.say("held: it was let go on here, and may go on at the destination, which is not seen yet. "
            "If that host is off for good, 'virsh resume' here lets it go on")


def held(run: Run, here: End) -> bool:
    """Whether the guest stands still here only since it may go on at the destination: neither its
    tenant nor the migration's monitor stopped it.

    :param here: what the source shows.
    """
    if here is not End.STILL:
        return False
    monitor = run.world.journal.claims(kind="transfer", guest=run.row.guest)
    stopped = data(run.instance).get("vm_state") != states.ACTIVE or any(
        claim.data.get("paused") for claim in monitor)
    return not stopped or _claimed(run)


def _claimed(run: Run) -> bool:
    return bool(run.world.journal.claims(kind=HELD, guest=run.row.guest))


def let_go(run: Run) -> None:
    """Let a guest that was held go on: it is nowhere else. Quiet if it was not."""
    if _claimed(run):
        run.world.driver.resume(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind=HELD)


def fresh(run: Run) -> None:
    """Before a migration begins: what an earlier one left in the hypervisor's word for why the
    guest runs is not to be taken for this one's."""
    found = run.world.driver.state(run.row.guest)
    if found is not None and found.power_state == states.RUNNING and found.reason == LET_GO_ON:
        run.world.driver.pause(run.row.guest)
        run.world.driver.resume(run.row.guest)
