"""Verdicts applied: on fakes, where a test can change the world between looking and acting."""

from __future__ import annotations

import json
import pathlib

import fixtures
import testtools

from compute.errors import Unknown
from compute.manager import Manager
from compute.model import states
from compute.recovery import reconcile
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler, restore_claims
from db.journal import rows
from tests import fakes
from tests.crash.matrix import CONTEXT, run_now
from tests.waiting import PATIENCE, wait_until

UUID = "aaaaaaaa-0000-4000-8000-000000000001"


class ReconcileTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.root = self.useFixture(fixtures.TempDir()).path
        self.silent = set()
        self.world = fakes.world(self.root, hook=self._hook, fail=self._fail)
        self.addCleanup(self.world.journal.engine.dispose)
        self.manager = Manager(self.world, workers=2)
        self.addCleanup(self.manager.park, PATIENCE)
        self.reconciler = Reconciler(self.manager, {"request_id": None}, lost_after=0)
        self.journal, self.conductor = self.world.journal, self.world.conductor

    def _hook(self, method, when):
        if when == "before":
            self._fail(method)

    def _fail(self, method):
        if method in self.silent:
            raise Unknown(f"{method} does not answer.", code="timeout")

    def booted(self) -> str:
        prim = fakes.instance(UUID)
        self.conductor.add(prim)
        run_now(self.world, "spawn", fakes.build_args(prim), {**CONTEXT, "request_id": "req-0"})
        self.assertEqual(states.ACTIVE, self.fields()["vm_state"])
        return UUID

    def fields(self):
        return self.conductor.fields(UUID)

    def run_pass(self):
        seen = self.reconciler.run_pass()
        wait_until(lambda: not self.manager.running())
        return seen

    def row(self) -> str:
        return self.reconciler.verdicts[UUID].row


class SilenceTest(ReconcileTest):
    def test_nothing_is_done_while_the_hypervisor_is_silent(self):
        self.booted()
        self.conductor.set(UUID, task_state=states.POWERING_OFF)
        self.silent = {"states"}
        seen = self.run_pass()
        self.assertEqual("blind", self.row())
        self.assertIn("hypervisor: states does not answer.", seen.unknown[0])
        self.assertEqual(states.POWERING_OFF, self.fields()["task_state"])
        self.silent = set()
        self.run_pass()
        self.assertEqual(states.STOPPED, self.fields()["vm_state"])

    def test_nothing_is_done_while_the_control_plane_is_silent(self):
        self.booted()
        self.world.driver.power_off(UUID)
        self.silent = {"instances"}
        self.run_pass()
        self.assertEqual("no-record", self.row())
        self.silent = {"deleted_among"}
        self.conductor.set(UUID, host="other")
        self.run_pass()
        self.assertEqual("no-record", self.row())
        self.assertIsNotNone(self.world.driver.state(UUID))

    def test_one_guest_in_trouble_does_not_hold_up_the_others(self):
        self.booted()
        self.world.driver.power_off(UUID)
        self.silent = {"save"}
        self.run_pass()
        self.assertIn("left for the next pass", self.log.output)
        self.silent = set()
        self.run_pass()
        self.assertEqual(states.STOPPED, self.fields()["vm_state"])


class HostBoot(ReconcileTest):
    """A host whose boot id tests may change."""

    def setUp(self):
        super().setUp()
        self.boot_id = pathlib.Path(self.root) / "boot_id"
        self.boot_id.write_text("first\n")
        self.patch(reconcile, "BOOT_ID", self.boot_id)
        self.world.conf.resume_guests_state_on_host_boot = True

    def rebooted(self):
        self.booted()
        self.run_pass()
        self.world.driver.power_off(UUID)
        self.boot_id.write_text("second\n")


class BootTest(HostBoot):
    def test_guests_that_ran_are_started(self):
        self.rebooted()
        self.run_pass()
        self.assertEqual(states.RUNNING, self.world.driver.state(UUID).power_state)
        self.run_pass()
        self.assertEqual("settled", self.row())
        self.assertEqual(["spawn", "start"], [r.verb for r in self.journal.find()])

    def test_a_first_start_is_no_host_boot(self):
        self.booted()
        self.world.driver.power_off(UUID)
        self.run_pass()
        self.assertEqual("stopped-itself", self.row())

    def test_while_something_cannot_be_observed_the_boot_is_remembered(self):
        self.rebooted()
        self.silent = {"states"}
        self.run_pass()
        self.assertEqual("first", self.journal.fact("boot_id"))
        self.silent = set()
        self.run_pass()
        self.assertEqual(states.RUNNING, self.world.driver.state(UUID).power_state)


class ApplyTest(ReconcileTest):
    def test_restarts_at_one_step_end_in_an_undo(self):
        prim = fakes.instance(UUID)
        self.conductor.add(prim)
        args = fakes.build_args(prim)
        row, _ = self.journal.accept("spawn", UUID, "req", {"args": args, "context": {}})
        self.journal.update(row.id, state=rows.RUNNING, restarts=3)
        self.reconciler.resume()
        wait_until(lambda: not self.manager.running())
        row = self.journal.get(row.id)
        self.assertEqual(rows.UNDONE, row.state)
        self.assertIn("restarted 4 times", row.abort)

    def test_what_waits_for_one_that_needs_an_operator_is_handed_over_at_start(self):
        """The process ended between the two."""
        self.booted()
        stop, _ = self.journal.accept("stop", UUID, "req-1", {"args": {}, "context": {}})
        prim = self.conductor.set(UUID, task_state=states.DELETING)
        delete, _ = self.journal.accept(
            "delete", UUID, "req-2", {"args": {"instance": prim, "bdms": None}, "context": {}},
            preempts=True)
        self.journal.update(stop.id, state=rows.NEEDS_OPERATOR)
        self.reconciler.resume()
        wait_until(lambda: not self.journal.find(active=True))
        self.assertEqual((rows.UNDONE, rows.DONE),
                         (self.journal.get(stop.id).state, self.journal.get(delete.id).state))

    def test_only_a_delete_takes_over_from_one_that_needs_an_operator(self):
        self.booted()
        stop, _ = self.journal.accept("stop", UUID, "req-1", {"args": {}, "context": {}})
        start, _ = self.journal.accept("start", UUID, "req-2", {"args": {}, "context": {}},
                                       nearly_over=lambda holder: True)
        self.journal.update(stop.id, state=rows.NEEDS_OPERATOR)
        self.run_pass()
        self.assertEqual((rows.NEEDS_OPERATOR, rows.ACCEPTED),
                         (self.journal.get(stop.id).state, self.journal.get(start.id).state))


class ClaimTest(ReconcileTest):
    def restore(self):
        restore_claims(self.world, observe(self.world, {}))
        return {c.kind: c.data for c in self.journal.claims(guest=UUID)}

    def test_lost_claims_are_made_again(self):
        self.booted()
        before = {c.kind: c.data for c in self.journal.claims(guest=UUID)}
        self.assertEqual({"domain", "disks", "ports", "resources"}, set(before))
        self.journal.release(guest=UUID)
        restored = self.restore()
        self.assertEqual(json.loads(json.dumps(before)), json.loads(json.dumps(restored)))

    def test_a_damaged_record_does_not_end_the_pass(self):
        self.booted()
        self.journal.release(guest=UUID)
        self.conductor.set(UUID, flavor=fakes.flavor(vcpus=0))
        self.assertEqual({}, self.restore())
        self.assertIn("cannot be claimed again", self.log.output)

    def test_a_foreign_domain_is_not_claimed(self):
        self.booted()
        self.journal.release(guest=UUID)
        path = self.world.driver.domains / f"{UUID}.json"
        path.write_text(path.read_text().replace('"ours": true', '"ours": false'))
        self.assertEqual({}, self.restore())
