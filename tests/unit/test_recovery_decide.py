"""The tables of verdicts, walked through in every combination of facts."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import replace

import testtools

from compute.model import states
from compute.model.guest import GuestState
from compute.recovery import decide
from compute.recovery.decide import Act, of_guest, of_operation
from compute.recovery.observe import Fact, GuestFacts
from compute.rpc.primitives import data, make
from db.journal import OperationRow, rows
from db.journal.rows import Claim

UUID = "aaaaaaaa-0000-4000-8000-000000000001"
# What each row of the tables makes reconcile do: whoever changes a row has to change it here too.
ROWS = {
    "operator": Act.LEAVE, "undoing": Act.CONTINUE, "committed": Act.CONTINUE,
    "aborted": Act.ROLLBACK, "deleted": Act.ROLLBACK, "restarts": Act.ROLLBACK,
    "resume": Act.CONTINUE, "blind": Act.WAIT, "no-record": Act.WAIT,
    "deleted-behind-us": Act.REAP, "deleted-disks": Act.REAP, "unclaimed": Act.REPORT,
    "fresh-task": Act.WAIT, "lost-cast": Act.ADOPT,
    "lost-build": Act.FAIL, "foreign-task": Act.REPORT, "host-boot": Act.START,
    "missing-domain": Act.REPORT, "stopped-itself": Act.SYNC, "power-state": Act.SYNC,
    "settled": Act.NOTHING, "saving": Act.WAIT, "saved-outside": Act.SYNC, "thaw": Act.THAW,
    "moved-behind-us": Act.REAP, "under-way": Act.NOTHING, "seen-disks": Act.NOTHING,
    "evacuated": Act.GIVE_WAY, "evacuating": Act.WAIT, "unheard": Act.WAIT,
    "taken": Act.WAIT, "lost-rebuild": Act.FAIL,
    "frozen": Act.REPORT, "memory-missing": Act.REPORT, "devices-out": Act.REPORT,
}
# What may be left to say of a guest whose power state was just corrected.
SYNCED = ("settled", "frozen", "memory-missing", "devices-out")
DESTRUCTIVE = (Act.REAP, Act.ROLLBACK, Act.FAIL)
DEEDS = (*DESTRUCTIVE, Act.ADOPT, Act.SYNC, Act.START, Act.THAW)
POWERS = (states.NOSTATE, states.RUNNING, states.POWER_PAUSED, states.SHUTDOWN, states.CRASHED,
          states.POWER_SUSPENDED)
TASKS = (None, states.SCHEDULING, states.NETWORKING, states.SPAWNING, states.DELETING,
         states.POWERING_OFF, states.POWERING_ON, states.REBOOTING, states.REBOOT_STARTED_HARD,
         "image_snapshot", states.REBUILDING)
VM_STATES = (states.BUILDING, states.ACTIVE, states.STOPPED, states.ERROR, states.PAUSED,
             states.SUSPENDED, states.RESCUED)
UNKNOWN = object()


def declared_rows() -> set[str]:
    """The names of all rows in the source of the tables."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(decide))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Verdict":
            name = node.args[1]
            if not isinstance(name, ast.Constant):
                raise AssertionError(f"line {node.lineno}: a row's name has to be a literal")
            found.add(name.value)
    return found


def fact(value: object, source: str = "hypervisor") -> Fact:
    if value is UNKNOWN:
        return Fact(None, False, source, 1.0, "it does not answer")
    return Fact(value, True, source, 1.0)


def domain(power: int, reason: str = "why", **more: object) -> GuestState:
    return GuestState(UUID, "instance-1", power, reason=reason, **more)


def record(vm_state: str = states.ACTIVE, task: str | None = None,
           power: int = states.RUNNING) -> dict:
    return make("Instance", {"uuid": UUID, "vm_state": vm_state, "task_state": task,
                             "power_state": power}, changes=())


def guest(dom: object = None, disks: object = True, rec: object = None, deleted: object = False,
          claims: bool = True, kinds: tuple[str, ...] = ("domain",),
          elsewhere: object = None, evacuated: object = UNKNOWN) -> GuestFacts:
    held = tuple(Claim(kind, UUID, UUID, "op", {}, 1.0) for kind in kinds)
    return GuestFacts(uuid=UUID, domain=fact(dom), disks=fact(disks, "disks"),
                      record=fact(rec, "control plane"), deleted=fact(deleted, "control plane"),
                      operation=None, claims=held if claims else (),
                      elsewhere=fact(elsewhere, "control plane"),
                      evacuated=fact(evacuated, "control plane"))


ELSEWHERE = (UNKNOWN, None, record(), record(states.RESIZED), record(task="migrating"))


def worlds(records: list) -> Iterator[GuestFacts]:
    """Every combination of facts about one guest."""
    domains = [UNKNOWN, None, *map(domain, POWERS), domain(states.SHUTDOWN, saved=True),
               domain(states.POWER_PAUSED, job="save"), domain(states.POWER_PAUSED, "ioerror")]
    bits = (UNKNOWN, True, False)
    for dom, disks, rec, deleted, claims in itertools.product(
            domains, bits, records, bits, (True, False)):
        for other in ELSEWHERE if rec is None else (UNKNOWN,):
            for evacuated in (UNKNOWN, False) if rebuilding(rec) else (UNKNOWN,):
                yield guest(dom, disks, rec, deleted, claims, ("domain", "unplugged"), other,
                            evacuated)


def rebuilding(rec: object) -> bool:
    return isinstance(rec, dict) and data(rec).get("task_state") in states.EVACUATING


def operation(**values: object) -> OperationRow:
    plain = {
        "id": "op", "verb": "start", "guest": UUID, "request_id": "req", "state": rows.RUNNING,
        "active": True, "lock": UUID, "waits_for": None, "request": {}, "step": "domain",
        "steps_done": 1, "steps_total": 3, "attempts": 0, "restarts": 0, "abort": None,
        "error": None, "verdict": None, "message": None, "created": 1.0, "updated": 1.0,
        "deadline": None, "retry_at": None,
    }
    return OperationRow(**{**plain, **values})


class GuestTableTest(testtools.TestCase):
    """Guests that nobody works on."""

    def test_every_row_is_reached_and_none_other(self):
        reached = {}
        records = [UNKNOWN, None, *(record(v, t, p) for v, t, p in itertools.product(
            VM_STATES, TASKS, (states.NOSTATE, states.RUNNING, states.SHUTDOWN,
                               states.POWER_PAUSED)))]
        flags = list(itertools.product((False, True), repeat=3))
        for facts in worlds(records):
            for rebooted, resume, waited in flags:
                verdict = of_guest(facts, rebooted=rebooted, resume=resume, waited=waited,
                                   thaw=resume)
                if verdict.row not in reached:
                    reached[verdict.row] = verdict.act
                self.check(facts, verdict, waited)
        for committed, row, facts, rebooted in OperationTableTest.combinations():
            verdict = of_operation(row, committed, facts, rebooted=rebooted)
            reached.setdefault(verdict.row, verdict.act)
        self.assertEqual(declared_rows(), set(reached))
        self.assertEqual(ROWS, reached)

    def check(self, facts: GuestFacts, verdict: decide.Verdict, waited: bool) -> None:
        """The rules that may not be broken, for one verdict."""
        if verdict.act is not ROWS[verdict.row]:
            self.fail(f"row {verdict.row} has two acts")
        seen = facts.domain.known and facts.disks.known and facts.record.known
        if verdict.act in DEEDS and not seen:
            self.fail(f"{verdict} on an unknown fact: {facts}")
        gone = facts.deleted.known and facts.deleted.value is True
        left = verdict.row == "moved-behind-us" and facts.elsewhere.value is not None
        if verdict.act is Act.REAP and (facts.record.value is not None or not (gone or left)):
            self.fail(f"{verdict} without the control plane's word: {facts}")
        if verdict.act in (Act.ADOPT, Act.FAIL) and not waited:
            self.fail(f"{verdict}, and the message may be on its way: {facts}")
        if not verdict.reason:
            self.fail(f"{verdict} has no reason")
        if verdict.act in (Act.START, Act.THAW) and facts.fields["vm_state"] != states.ACTIVE:
            self.fail(f"{verdict} for a guest that shall not run: {facts}")
        if verdict.act is Act.SYNC:
            self.check_sync(facts, verdict)

    def check_sync(self, facts: GuestFacts, verdict: decide.Verdict) -> None:
        """What is saved is what was seen, and afterwards there is nothing left to be saved."""
        changes = decide.power_changes(facts)
        self.assertEqual(facts.domain.value.power_state, changes["power_state"])
        self.assertEqual({"stopped-itself": states.STOPPED, "saved-outside": states.SUSPENDED}.get(
            verdict.row), changes.get("vm_state"))
        saved = make("Instance", {**facts.fields, **changes}, changes=())
        after = of_guest(replace(facts, record=fact(saved, "control plane")), rebooted=False,
                         resume=False, waited=False)
        self.assertIn(after.row, SYNCED)

    def verdict(self, facts, *, rebooted=False, resume=False, waited=True, thaw=False):
        found = of_guest(facts, rebooted=rebooted, resume=resume, waited=waited, thaw=thaw)
        return found.row, found.verb

    def test_lost_messages_by_their_task(self):
        for task, verb in ((states.DELETING, "delete"), (states.POWERING_OFF, "stop"),
                           (states.POWERING_ON, "start"), (states.REBOOTING, "reboot"),
                           (states.REBOOT_PENDING, "reboot"), (states.REBOOT_STARTED, "reboot"),
                           (states.REBOOTING_HARD, "reboot"),
                           (states.REBOOT_PENDING_HARD, "reboot"),
                           (states.REBOOT_STARTED_HARD, "reboot"), (states.PAUSING, "pause"),
                           (states.UNPAUSING, "unpause"), (states.SUSPENDING, "suspend"),
                           (states.RESUMING, "resume"), (states.SHELVING, "shelve"),
                           (states.SHELVING_IMAGE_UPLOADING, "shelve"),
                           (states.SHELVING_OFFLOADING, "shelve_offload"),
                           (states.SOFT_DELETING, "soft_delete"),
                           (states.RESTORING, "restore")):
            facts = guest(domain(states.RUNNING), rec=record(task=task))
            self.assertEqual(("lost-cast", verb), self.verdict(facts))
            self.assertEqual(("fresh-task", verb), self.verdict(facts, waited=False))
        for task in (states.IMAGE_SNAPSHOT_PENDING, states.IMAGE_SNAPSHOT,
                     states.IMAGE_UPLOADING):
            facts = guest(domain(states.RUNNING), rec=record(task=task))
            self.assertEqual(("lost-cast", "snapshot"), self.verdict(facts))
        facts = guest(domain(states.RUNNING), rec=record(task=states.IMAGE_BACKUP))
        self.assertEqual(("lost-cast", "backup"), self.verdict(facts))

    def test_a_rebuild_whose_message_was_lost_replaces_no_disks(self):
        for task in states.EVACUATING:
            for evacuated, row in ((UNKNOWN, "taken"), (True, "taken"), (False, "lost-rebuild")):
                facts = guest(domain(states.RUNNING), rec=record(task=task), evacuated=evacuated)
                self.assertEqual((row, ""), self.verdict(facts))
                self.assertEqual(("fresh-task", ""), self.verdict(facts, waited=False))

    def test_a_build_that_no_host_has_is_the_control_planes_affair(self):
        facts = guest(None, False, record(states.BUILDING, states.SCHEDULING))
        self.assertEqual(("foreign-task", ""), self.verdict(facts))

    def test_a_guest_is_started_after_a_host_boot_only_if_it_ran_and_may(self):
        facts = guest(domain(states.SHUTDOWN), rec=record())
        self.assertEqual("host-boot", self.verdict(facts, rebooted=True, resume=True)[0])
        self.assertEqual("stopped-itself", self.verdict(facts, rebooted=True)[0])
        self.assertEqual("stopped-itself", self.verdict(facts, resume=True)[0])
        without = replace(facts, disks=fact(False, "disks"))
        self.assertEqual("stopped-itself",
                         self.verdict(without, rebooted=True, resume=True)[0])
        stopped = guest(domain(states.SHUTDOWN), rec=record(states.STOPPED, None, states.SHUTDOWN))
        self.assertEqual("settled", self.verdict(stopped, rebooted=True, resume=True)[0])

    def test_a_hypervisor_that_does_not_say_a_state_stops_nobody(self):
        facts = guest(domain(states.NOSTATE), rec=record())
        self.assertEqual("power-state", self.verdict(facts)[0])
        self.assertNotIn("vm_state", decide.power_changes(facts))

    def test_a_guest_whose_memory_the_hosts_shutdown_saved_goes_on_from_it(self):
        facts = guest(domain(states.SHUTDOWN, saved=True), rec=record())
        self.assertEqual(("host-boot", "resume"), self.verdict(facts, rebooted=True, resume=True))
        self.assertEqual(("saved-outside", ""), self.verdict(facts, rebooted=True))

    def test_memory_that_somebody_saved_is_kept_for_a_resume(self):
        for vm_state in (states.ACTIVE, states.PAUSED):
            prim = make("Instance", {
                "uuid": UUID, "vm_state": vm_state, "task_state": None, "power_state": 1,
                "system_metadata": {"image_hw_disk_bus": "virtio"}}, changes=())
            facts = guest(domain(states.SHUTDOWN, saved=True), rec=prim)
            self.assertEqual("saved-outside", self.verdict(facts)[0])
            self.assertEqual(
                {"power_state": states.SHUTDOWN, "vm_state": states.SUSPENDED, "system_metadata":
                 {"image_hw_disk_bus": "virtio", "old_vm_state": vm_state}},
                decide.power_changes(facts))
        bare = guest(domain(states.SHUTDOWN, saved=True), rec=record())
        self.assertNotIn("system_metadata", decide.power_changes(bare), "others would be lost")

    def test_suspended_guests_at_rest(self):
        for dom, row in ((domain(states.SHUTDOWN, saved=True), "settled"),
                         (domain(states.SHUTDOWN), "memory-missing"), (None, "missing-domain")):
            facts = guest(dom, rec=record(states.SUSPENDED, None, states.SHUTDOWN))
            for rebooted, resume in itertools.product((False, True), repeat=2):
                self.assertEqual((row, ""), self.verdict(facts, rebooted=rebooted, resume=resume))

    def test_paused_guests_at_rest(self):
        for dom, row in ((domain(states.POWER_PAUSED, "user"), "settled"),
                         (domain(states.SHUTDOWN), "stopped-itself"),
                         (domain(states.SHUTDOWN, saved=True), "saved-outside"),
                         (domain(states.RUNNING), "power-state"), (None, "missing-domain")):
            facts = guest(dom, rec=record(states.PAUSED, None, states.POWER_PAUSED))
            for rebooted, resume in itertools.product((False, True), repeat=2):
                self.assertEqual((row, ""), self.verdict(facts, rebooted=rebooted, resume=resume))

    def test_a_guest_that_is_being_saved_is_waited_for(self):
        facts = guest(domain(states.POWER_PAUSED, "save", job="save"), rec=record())
        self.assertEqual(("saving", ""), self.verdict(facts))

    def test_a_guest_that_its_hypervisor_paused(self):
        for reason, thawed in (("ioerror", True), ("postcopy_failed", False), ("user", False),
                               ("", False), ("watchdog", False)):
            dom = domain(states.POWER_PAUSED, reason)
            facts = guest(dom, rec=record(power=states.POWER_PAUSED))
            self.assertEqual("frozen", self.verdict(facts)[0])
            self.assertEqual(("thaw", "unpause") if thawed else ("frozen", ""),
                             self.verdict(facts, thaw=True))
            text = of_guest(facts, rebooted=False, resume=False, waited=False).reason
            self.assertIn({"postcopy_failed": "Do not resume"}.get(reason, "virsh resume"), text)

    def test_it_is_let_run_at_growing_distances_and_not_for_ever(self):
        self.assertTrue(decide.thaw_due([], 0.0))
        tries, now = [], 0.0
        while now < decide.DAY - 1:
            if decide.thaw_due(tries, now):
                tries.append(now)
            now += 5
        self.assertEqual([0.0, 60.0, 180.0, 420.0], tries[:4])
        self.assertEqual(decide.THAWS, len(tries))
        self.assertFalse(decide.thaw_due(tries, decide.DAY - 1))
        self.assertTrue(decide.thaw_due(tries, tries[-1] + decide.DAY))

    def test_devices_that_did_not_go_in_again_are_told(self):
        kinds = ("domain", "unplugged")
        facts = guest(domain(states.RUNNING), rec=record(), kinds=kinds)
        self.assertEqual("devices-out", self.verdict(facts)[0])
        asleep = guest(domain(states.SHUTDOWN, saved=True), kinds=kinds,
                       rec=record(states.SUSPENDED, None, states.SHUTDOWN))
        self.assertEqual("settled", self.verdict(asleep)[0])

    def test_a_domain_that_nobody_knows_is_reported(self):
        self.assertEqual(("unclaimed", ""), self.verdict(guest(domain(states.RUNNING))))

    def test_disks_of_a_deleted_guest_while_the_hypervisor_is_silent(self):
        facts = guest(UNKNOWN, True, None, True, claims=False)
        self.assertEqual(("blind", ""), self.verdict(facts))


class OperationTableTest(testtools.TestCase):
    """Operations that have no worker."""

    @staticmethod
    def combinations() -> Iterator[tuple[bool, OperationRow, GuestFacts, bool]]:
        """Every combination of an operation and facts, and whether the host was booted."""
        facts = [(one, False) for one in worlds([UNKNOWN, None, record()])]
        for dom, disks, rec, deleted, other, evacuated, rebooted in itertools.product(
                (UNKNOWN, None, domain(states.RUNNING)), (UNKNOWN, True),
                (UNKNOWN, None, record(), record(task=states.REBUILDING)), (UNKNOWN, True, False),
                (UNKNOWN, None, record()), (UNKNOWN, True, False), (True, False)):
            facts.append((guest(dom, disks, rec, deleted, elsewhere=other, evacuated=evacuated),
                          rebooted))
        for state, verb, abort, restarts, committed, step in itertools.product(
                (rows.ACCEPTED, rows.RUNNING, rows.UNDOING, rows.CONCLUDING, rows.NEEDS_OPERATOR),
                ("start", "delete", "reap"), (None, "an operator stopped it"),
                (0, decide.MOST_RESTARTS + 1), (False, True), (None, "domain")):
            row = operation(state=state, verb=verb, abort=abort, restarts=restarts, step=step)
            for one, rebooted in facts:
                yield committed, row, one, rebooted

    def test_the_rules(self):
        for committed, row, facts, rebooted in self.combinations():
            verdict = of_operation(row, committed, facts, rebooted=rebooted)
            if verdict.act is Act.GIVE_WAY and not (
                    facts.record.known and facts.record.value is None and facts.elsewhere.value
                    and facts.evacuated.value):
                self.fail(f"{verdict} without the control plane's word: {facts}")
            if rebooted and verdict.act is Act.CONTINUE and not facts.record.known:
                self.fail(f"{verdict} although nobody says whose guest it is: {facts}")
            if verdict.act is not ROWS[verdict.row]:
                self.fail(f"row {verdict.row} has two acts")
            if verdict.act is not Act.ROLLBACK:
                continue
            if not (facts.domain.known and facts.disks.known):
                self.fail(f"{verdict} on an unknown fact: {facts}")
            if committed or row.state not in (rows.ACCEPTED, rows.RUNNING):
                self.fail(f"{verdict} past the point of no return: {row}")
            if verdict.row == "deleted" and not (facts.deleted.known and facts.deleted.value):
                self.fail(f"{verdict} without the control plane's word: {facts}")

    def verdict(self, committed=False, facts=None, rebooted=False, **values):
        facts = facts or guest(domain(states.RUNNING), rec=record())
        return of_operation(operation(**values), committed, facts, rebooted=rebooted)

    def test_each_row(self):
        deleted = guest(domain(states.RUNNING), True, None, True)
        left = guest(None, True, None, elsewhere=record(), evacuated=True)
        for row, verdict in (
                ("evacuated", self.verdict(True, left)),
                ("evacuated", self.verdict(facts=left, state=rows.UNDOING)),
                ("committed", self.verdict(True, left, verb="vacate")),
                ("evacuating", self.verdict(True, guest(rec=record(task=states.REBUILDING)))),
                ("evacuating", self.verdict(True, guest(rec=record(task=states.REBUILDING)),
                                            verb="rebuild")),
                ("evacuating", self.verdict(True, guest(
                    rec=record(task=states.REBUILDING), evacuated=True), verb="rebuild")),
                ("committed", self.verdict(True, guest(
                    rec=record(task=states.REBUILDING), evacuated=False), verb="rebuild")),
                ("unheard", self.verdict(True, guest(rec=UNKNOWN), rebooted=True)),
                ("resume", self.verdict(facts=guest(rec=UNKNOWN))),
                ("operator", self.verdict(state=rows.NEEDS_OPERATOR, message="look")),
                ("undoing", self.verdict(state=rows.UNDOING)),
                ("undoing", self.verdict(state=rows.CONCLUDING)),
                ("committed", self.verdict(True, abort="too late")),
                ("aborted", self.verdict(abort="an operator stopped it")),
                ("deleted", self.verdict(facts=deleted)),
                ("resume", self.verdict(facts=deleted, verb="delete")),
                ("resume", self.verdict(facts=deleted, verb="reap")),
                ("blind", self.verdict(facts=guest(UNKNOWN))),
                ("blind", self.verdict(facts=guest(None, UNKNOWN), abort="stop")),
                ("restarts", self.verdict(restarts=decide.MOST_RESTARTS + 1)),
                ("resume", self.verdict(restarts=decide.MOST_RESTARTS)),
                ("resume", self.verdict(step=None))):
            self.assertEqual(row, verdict.row, verdict)

    def test_reasons_name_the_step_and_the_cause(self):
        self.assertIn("step domain", self.verdict().reason)
        self.assertIn("its first step", self.verdict(step=None).reason)
        self.assertIn("stopped it", self.verdict(abort="an operator stopped it").reason)
        self.assertIn("it does not answer", self.verdict(facts=guest(UNKNOWN)).reason)
