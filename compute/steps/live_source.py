"""queue, destination, strategy, transfer: the source's half of a live migration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.engine.world import PeerView, World
from compute.errors import Failed, MagnetarError, NeedsOperator, Retryable, Turned, Unknown
from compute.migration import trend, truth
from compute.migration.monitor import Monitor
from compute.migration.planning import decide_plan, link_to
from compute.migration.policy import Limits
from compute.migration.terms import Asked
from compute.migration.truth import HERE, Act, End, Judgement, end_of
from compute.model import states
from compute.model.guest import Guest
from compute.model.move import PRECOPY, Check, JobSample, MovePlan
from compute.model.wire import NO_FLAVOR
from compute.rpc.primitives import data, make, own
from compute.steps.attached import claimed
from compute.steps.domain import generation, power
from compute.steps.live_held import fresh, held, hold, let_go
from compute.steps.migration_record import mark, migration_of
from db.journal import rows

MOST_CALLS = 3  # how often a destination that does not answer is asked before a migration is undone
SEEN_SECONDS = 30.0  # how long the end of a transfer may take to be seen at both ends
SURE_SECONDS = 5.0  # how long two ends have to show what only a person can end
TAKEN = ("domain", "record", "migration", "finish")  # steps of live_in from there on
PATIENT = 1_000_000


def destination_of(run: Run) -> str:
    """The host that the guest moves to."""
    return str(run.request["args"]["dest"])


class Queue(Step):
    """queue: wait until this host, and the link to the destination, have room for a migration."""

    name = "queue"

    def claims(self, run: Run) -> list:
        return [("slot", run.row.guest, {"link": destination_of(run)})]

    def do(self, run: Run) -> None:
        mark(run, "queued")
        while not run.wait(lambda: position(run) == 0, 10):
            run.say(f"queued, at place {position(run)}")

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        run.world.journal.release(guest=run.row.guest, kind="slot")


def position(run: Run) -> int:
    """How many migrations are to end before this one may begin; 0 when it may."""
    return position_of(run.world, run.row.guest)


def position_of(world: World, guest: str) -> int:
    """The place of a guest in the queue of this host's migrations; 0 when it may begin."""
    limit = world.conf.max_concurrent_live_migrations
    link_limit = world.conf.max_concurrent_live_migrations_per_link
    links: dict[str, int] = {}
    going = waiting = 0
    for claim in sorted(world.journal.claims(kind="slot"), key=lambda c: (c.created, c.guest)):
        link = claim.data["link"]
        may = (not limit or going < limit) and (not link_limit or links.get(link, 0) < link_limit)
        if claim.guest == guest:
            return 0 if may else waiting + 1
        if may:
            going += 1
            links[link] = links.get(link, 0) + 1
        else:
            waiting += 1
    return 0


class Destination(Step):
    """destination: have it make what the guest needs there, and learn where it listens.

    What the destination made is a lease: it takes it back by itself when it hears no more of us.
    """

    name = "destination"
    attempts = PATIENT

    def do(self, run: Run) -> dict[str, Any]:
        mark(run, "preparing")
        host = destination_of(run)
        told = {"outgoing": dict(run.world.driver.outgoing(run.row.guest)),
                "migration": migration_of(run)["uuid"],
                "volumes": [one.to_plain() for one in claimed(run)],
                "block_migration": run.request["args"].get("block_migration"),
                "generation": generation(run) + 1}
        try:
            answer = run.world.peers.call(
                run.context, host, "pre_live_migration", instance=run.instance,
                disk=json.dumps(told), migrate_data=run.request["args"].get("migrate_data"))
        except (Unknown, Retryable) as error:
            if error.code != "incoming_busy" and run.row.attempts + 1 >= MOST_CALLS:
                raise Failed(f"Host {host} did not answer {MOST_CALLS} times when it was to "
                             f"prepare for guest {run.row.guest}: {error.what}",
                             code="destination_silent") from error
            raise
        prepared = own(answer)
        if not prepared:
            raise Failed(f"The agent of host {host} is none that guests can be moved to from here.",
                         next="Choose a host whose agent is Magnetar's.", code="no_peer")
        checks = run.world.driver.check_outgoing(run.row.guest, prepared)
        refuse_if_any(checks, run.row.guest, host)
        return dict(prepared)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        try:
            run.world.peers.cast(
                run.context, destination_of(run), "rollback_live_migration_at_destination",
                instance=run.instance, destroy_disks=True,
                migrate_data=run.request["args"].get("migrate_data"))
        except MagnetarError as error:
            run.say(f"the destination could not be told, its lease will end: {error.what}")


def refuse_if_any(checks: tuple[Check, ...], guest: str, host: str) -> None:
    """Raise Failed(code='cannot_move') naming every check that says no."""
    wrong = [check for check in checks if check.ok is False]
    if wrong:
        raise Failed(
            f"Guest {guest} cannot move to host {host}: "
            + "; ".join(f"{check.name}: {check.found}" for check in wrong) + ".",
            now="The guest stays where it is.",
            next=" ".join(dict.fromkeys(check.next for check in wrong if check.next)),
            code="cannot_move")


class Strategy(Step):
    """strategy: decide how the memory shall go over, on what the guest writes."""

    name = "strategy"

    def do(self, run: Run) -> dict[str, Any]:
        decided = decide_plan(run.world, sized(run), destination_of(run),
                              run.outcome("destination"), generation(run) + 1, run.row.id,
                              asked_of(run.request["args"]))
        run.say(decided.reason)
        return {"plan": decided.plan.to_plain(), "limits": asdict(decided.limits),
                "strategy": decided.strategy, "reason": decided.reason}


def asked_of(args: Mapping[str, Any]) -> Asked:
    """What was asked for of this migration alone. Raises Refused(code='bad_value')."""
    return Asked.of(own(args.get("migrate_data")).get("asked"))


def sized(run: Run) -> Guest:
    """The guest with its flavor, read anew when the message came without."""
    if run.guest.flavor is NO_FLAVOR:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
    return run.guest


class Transfer(Step):
    """transfer: the guest goes over while it runs. libvirt carries it out, and goes on when this
    process dies; what both ends show decides how it ended."""

    name = "transfer"
    decides = True
    attempts = PATIENT

    def probe(self, run: Run) -> Probe:
        judgement = look(run)
        if judgement.act is Act.DONE:
            return Probe.YES
        waits = judgement.act in (Act.WAIT, Act.STOP)
        return Probe.UNKNOWN if waits and not at_home(run) else Probe.NO

    def do(self, run: Run) -> dict[str, Any]:
        hold(run)
        judgement = look(run)
        plan = MovePlan.from_plain(run.outcome("strategy")["plan"])
        if judgement.act is Act.OPERATOR:
            return self.ended(run, None, "")
        if judgement.act is Act.UNDONE:
            let_go(run)
            self.begin(run, plan)
        monitor = Monitor(run, plan, Limits(**run.outcome("strategy")["limits"]),
                          lambda status: mark(run, status), lambda sample: report(run, sample))
        last = monitor.watch()
        hold(run)
        remember_link(run, monitor)
        return self.ended(run, last, monitor.why)

    def begin(self, run: Run, plan: MovePlan) -> None:
        """Start it, unless it shall not be any more or the destination gave up its lease."""
        run.check()
        if power(run) not in (states.RUNNING, states.POWER_PAUSED):
            raise Failed(f"Guest {run.row.guest} went off before it could move.", code="guest_off")
        host = destination_of(run)
        moving = migration_of(run)["uuid"]
        if not any(op["migration"] == moving and op["verb"] == "live_in" and op["active"]
                   for op in run.world.peers.look(host, run.row.guest).operations):
            raise Failed(f"Host {host} no longer waits for guest {run.row.guest}.",
                         code="lease_lost")
        mark(run, "running")
        fresh(run)
        run.world.driver.migrate(run.row.guest, plan)

    def ended(self, run: Run, sample: JobSample | None, stopped: str) -> dict[str, Any]:
        """What came of it, by what both ends show once they are still."""
        ends = (Act.DONE, Act.UNDONE, Act.RECOVER)
        found: list[Judgement] = []

        odd_since: list[float] = []

        def still() -> bool:
            found[:] = [look(run)]
            if found[0].act is not Act.OPERATOR:
                odd_since.clear()
                return found[0].act in ends
            # Two looks are not one moment: only what stays so is for a person to decide.
            now = run.world.clock.now()
            odd_since[:] = odd_since or [now]
            return now - odd_since[0] >= SURE_SECONDS

        run.wait(still, SEEN_SECONDS, heed=False)
        judgement = found[0]
        if judgement.act is Act.DONE:
            return {"sample": sample.to_plain() if sample else None, "row": judgement.row}
        if judgement.act is Act.OPERATOR:
            raise self.asks(run, judgement)
        if judgement.act is not Act.UNDONE and not at_home(run):
            raise Unknown(f"How the migration ended is not known yet: {judgement.reason}",
                          code="unsettled")
        run.check()  # it was stopped because somebody asked for it
        told = stopped or (sample.error if sample is not None else "")
        why = f": {told}" if told else ""
        raise Failed(f"The migration of guest {run.row.guest} to host {destination_of(run)} did "
                     f"not succeed{why}.", now="The guest is where it was.",
                     next="'magnetar plan live-migrate' tells what stands in the way.",
                     code="migration_failed")

    def asks(self, run: Run, judgement: Judgement) -> NeedsOperator:
        host = destination_of(run)
        return NeedsOperator(
            f"Guest {run.row.guest}: {judgement.reason}",
            now="Nothing is changed on either host.",
            next=f"Look at it with 'virsh domstate --reason {run.row.guest}' here and on {host}, "
                 f"keep the copy that is right, then: magnetar op resolve {run.row.id} --as retry",
            code=f"move_{judgement.row}")

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        driver, guest = run.world.driver, run.row.guest
        state = driver.state(guest)
        if state is not None and state.job == "out":
            driver.abort_job(guest)
            raise Unknown("The migration is being stopped.", code="stopping")
        hold(run)
        judgement = look(run)
        if judgement.act is Act.DONE:
            raise Turned(f"Guest {guest} has arrived after all.")
        if judgement.act in (Act.WAIT, Act.STOP) and not at_home(run):
            raise Unknown(f"Where the guest is cannot be told now: {judgement.reason}",
                          code="unsettled")
        let_go(run)
        if state is not None and state.power_state == states.POWER_PAUSED \
                and data(run.instance).get("vm_state") == states.ACTIVE:
            driver.resume(guest)  # we, or a cut switch-over, stopped it


def remember_link(run: Run, monitor: Monitor) -> None:
    """Keep what the link to the destination carried, for the plans of later migrations; not what a
    limit left of it."""
    seen = trend.bandwidth([one for one in monitor.samples if one.phase == PRECOPY])
    if seen and not monitor.limits.bandwidth:
        run.world.journal.set_fact(link_to(destination_of(run)), seen)


def at_home(run: Run) -> bool:
    """Whether the guest is here and nothing sends it: then it has not left, whether or not the
    destination can be asked. To undo takes nothing away, and the destination's lease ends by
    itself; so a destination that is gone for good does not hold the guest's task up. One that is
    held may have left."""
    return _here(run) in HERE


def _here(run: Run) -> End:
    """What this end shows."""
    here = end_of(run.world.driver.state(run.row.guest), source=True)
    return End.HELD if held(run, here) else here


def look(run: Run) -> Judgement:
    """Judge the migration by what both ends show."""
    guest = run.row.guest
    source = _here(run)
    if source is End.LEAVING:
        return truth.judge(source, End.RECEIVING)  # no need to ask the other end
    taken = False
    try:
        view = run.world.peers.look(destination_of(run), guest)
        target, taken = end_of(view.domain, source=False), has_taken(run, view)
    except MagnetarError as error:  # of whatever kind: the other end was not seen
        run.say(f"the destination cannot be looked at: {error.what}")
        target = End.UNKNOWN
    return truth.judge(source, target, taken)


def has_taken(run: Run, view: PeerView) -> bool:
    """Whether the destination's half of this migration is past its point of no return."""
    moving = migration_of(run)["uuid"]
    return any(op["migration"] == moving and op["verb"] == "live_in" and op["state"] != rows.UNDOING
               and op["step"] in TAKEN for op in view.operations)


def report(run: Run, sample: JobSample) -> None:
    """Tell the control plane how far it is, as Nova's API shows it."""
    mark(run, None, memory_total=sample.memory_total, memory_processed=sample.memory_processed,
         memory_remaining=sample.memory_remaining, disk_total=sample.disk_total,
         disk_processed=sample.disk_processed, disk_remaining=sample.disk_remaining)


def migrate_data_of(guest: str, **fields: Any) -> dict[str, Any]:
    """A LibvirtLiveMigrateData object."""
    return make("LibvirtLiveMigrateData", fields)
