"""Bugs that the simulation and the matrix of calls found."""

from __future__ import annotations

import pathlib
import shutil
import tempfile

import testtools

from compute.errors import Failed, Retryable, Unknown
from compute.model import states
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler
from db.journal import rows
from tests import fakes
from tests.simulation.clock import FakeClock
from tests.simulation.manager import SteppedManager

GUEST = "aaaaaaaa-0000-4000-8000-000000000001"
CONTEXT = {"request_id": "req-1", "roles": ["member"], "auth_token": "token"}
RETRY = {"retry": {"num_attempts": 1, "hosts": [[fakes.HOST, fakes.HOST]]}}


class SimulationFinds(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-find-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.raises: dict[str, list[Exception]] = {}
        self.world = fakes.world(self.root, clock=FakeClock(), hook=self._driver, fail=self._fail)
        self.addCleanup(self.world.journal.engine.dispose)
        self.manager = SteppedManager(self.world)
        self.conductor = self.world.conductor
        self.conductor.add(fakes.instance(uuid=GUEST))

    def _driver(self, method: str, when: str) -> None:
        if when == "before":
            self._fail(method)

    def _fail(self, call: str) -> None:
        if self.raises.get(call):
            error = self.raises[call].pop(0)
            if callable(error):
                error()
            else:
                raise error

    def accept(self, verb: str = "spawn", request: str = "req-1", **more):
        prim = self.conductor.read()["instances"][GUEST]
        args = fakes.build_args(prim, filter_properties=RETRY) if verb == "spawn" \
            else {"instance": prim, **more}
        return self.manager.accept(verb, GUEST, request, args,
                                   {**CONTEXT, "request_id": request})

    def state(self, row) -> str:
        return self.world.journal.get(row.id).state

    # -- two hosts ----------------------------------------------------------------------------
    def test_a_claim_is_not_taken_from_another_host(self):
        """The message reached two hosts; ours got no answer, and the other one claimed."""
        def other_claims() -> None:
            self.conductor.set(GUEST, host="host2", task_state=states.NETWORKING)
            raise Unknown("No answer came.", code="timeout")

        row = self.accept()
        self.raises["save"] = [other_claims]
        self.manager.drain()
        self.assertEqual(rows.UNDONE, self.state(row))
        self.assertEqual("stale", self.world.journal.get(row.id).error["code"])
        fields = self.conductor.fields(GUEST)
        self.assertEqual(("host2", states.NETWORKING), (fields["host"], fields["task_state"]))

    def test_a_build_is_not_handed_back_from_under_another_host(self):
        """Undone before it claimed anything, while another host had built the guest."""
        row = self.accept()
        self.manager.abort(row.id, "the agent was restarted 4 times")
        self.conductor.set(GUEST, host="host2", vm_state=states.ACTIVE, task_state=None)
        self.manager.drain()
        self.assertEqual(rows.UNDONE, self.state(row))
        fields = self.conductor.fields(GUEST)
        self.assertEqual(("host2", states.ACTIVE), (fields["host"], fields["vm_state"]))

    def test_a_build_that_was_handed_back_already_is_left_where_it_is(self):
        """The cast of build_instances went out and its answer was lost; another host built it."""
        def other_builds() -> None:
            self.conductor.set(GUEST, host="host2", vm_state=states.ACTIVE, task_state=None)
            raise Unknown("No answer came.", code="timeout")

        row = self.accept()
        self.raises["define"] = [Failed("It cannot be defined.")]
        self.raises["build_instances"] = [other_builds]
        self.manager.drain()
        self.assertEqual(rows.UNDONE, self.state(row))
        self.assertEqual("host2", self.conductor.fields(GUEST)["host"])

    def test_a_handback_of_a_guest_that_was_deleted_ends(self):
        def deleted() -> None:
            self.conductor.set(GUEST, host=None, deleted=True)
            raise Unknown("No answer came.", code="timeout")

        row = self.accept()
        self.raises["define"] = [Failed("It cannot be defined.")]
        self.raises["build_instances"] = [deleted]
        self.manager.drain()
        self.assertEqual(rows.UNDONE, self.state(row))

    # -- undo ---------------------------------------------------------------------------------
    def test_nothing_is_undone_under_a_guest_that_cannot_be_stopped(self):
        """Its disks stay, and the build is not handed to another host, until an operator helps."""
        row = self.accept()
        self.raises["power_off"] = [Failed("It does not stop.")]
        self.raises["state"] = [Failed("The guest cannot be seen.")]
        self.manager.drain()
        self.assertEqual(rows.NEEDS_OPERATOR, self.state(row))
        self.assertIn(f"magnetar op resolve {row.id} --as retry",
                      self.world.journal.get(row.id).error["next"])
        self.assertEqual(states.RUNNING, self.world.driver.state(GUEST).power_state)
        self.assertTrue(self.world.driver.disks(GUEST))
        self.assertEqual([], self.conductor.read()["rescheduled"])

    # -- waiting ------------------------------------------------------------------------------
    def test_a_thousand_attempts_are_not_too_many(self):
        """The delay doubled until it did not fit into a float, and the worker died."""
        row = self.accept()
        self.manager.step(row.id)
        self.world.journal.update(row.id, attempts=5000)
        self.manager = SteppedManager(self.world)
        self.manager.start(self.world.journal.get(row.id))
        self.raises["event_start"] = [Retryable("It cannot be reached.")]
        self.manager.drain()
        self.assertEqual(rows.DONE, self.state(row))

    # -- secrets ------------------------------------------------------------------------------
    def left(self) -> list[str]:
        return sorted(p.name for p in (self.root / "secrets").iterdir())

    def test_an_operation_that_gave_way_leaves_no_secrets(self):
        row = self.accept()
        self.world.journal.update(row.id, state=rows.NEEDS_OPERATOR, error={"what": "x"})
        self.conductor.set(GUEST, host=fakes.HOST, task_state=states.DELETING)
        self.accept("delete", "req-2", bdms={})
        self.manager.drain()
        Reconciler(self.manager, CONTEXT).run_pass()
        self.assertEqual([], self.left())

    def test_secrets_of_a_request_that_is_being_accepted_stay(self):
        """They are written before the journal's row, and a pass may come in between."""
        self.world.secrets.keep("new-operation", "guest", {"admin_pass": "word"})
        Reconciler(self.manager, CONTEXT).resume()
        Reconciler(self.manager, CONTEXT).run_pass()
        self.assertEqual(["new-operation.guest"], self.left())

    def test_secrets_of_a_request_that_an_earlier_process_did_not_accept_go(self):
        self.world.secrets.keep("lost-operation", "guest", {"admin_pass": "word"})
        later = fakes.world(self.root, clock=FakeClock())
        self.addCleanup(later.journal.engine.dispose)
        Reconciler(SteppedManager(later), CONTEXT).resume()
        self.assertEqual([], self.left())

    # -- clocks -------------------------------------------------------------------------------
    def test_the_holder_is_seen_and_not_what_waits_for_it(self):
        """The clock went back between the two."""
        holder = self.accept()
        self.manager.step(holder.id)
        self.world.clock.time -= 100
        self.conductor.set(GUEST, host=fakes.HOST, task_state=states.DELETING)
        waiting = self.accept("delete", "req-2", bdms={})
        self.assertEqual(holder.id, waiting.waits_for)
        self.assertEqual(holder.id, observe(self.world, CONTEXT).guests[GUEST].operation.id)
