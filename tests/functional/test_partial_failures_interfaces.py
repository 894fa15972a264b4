"""NICs, deletes that can be restored, and what kills agent and others on the way.

A test or more for each row of the list of partial failures that is about interfaces, and for the
part of row 19 that is about soft deletes.
"""

from __future__ import annotations

import os
import pathlib

import fixtures
import testtools

from compute.errors import Failed, Retryable
from compute.manager import Manager
from compute.model import states, wire
from compute.operator.verbs import OperatorVerbs
from compute.recovery import reconcile
from compute.recovery.reconcile import Reconciler
from db.journal import rows
from tests import fakes
from tests.crash import matrix, nics
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, PORT, Case, child, first_life, next_life
from tests.modes import EVENTLET, ROWS, once
from tests.waiting import PATIENCE, wait_until

ATTACH = {"network_id": None, "port_id": PORT, "requested_ip": None, "tag": None}
DETACH = {"port_id": PORT}
MOMENTS = ("before_intent", "after_intent", "after_effect", "after_record")


@once(ROWS, EVENTLET)
class InterfaceFailureTest(testtools.TestCase):
    """One guest, on files that outlive the agent's process."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        boot_id = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / "boot_id"
        boot_id.write_text("first\n")
        self.patch(reconcile, "BOOT_ID", boot_id)
        self.build()

    def build(self) -> None:
        """A guest that runs with one NIC."""
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
        self.open()
        prim = fakes.instance(uuid=GUEST)
        self.world.conductor.add(prim)
        self.run_now("spawn", fakes.build_args(prim))

    def open(self, network_hook=None) -> None:
        """The world as an agent that starts now finds it."""
        self.world = fakes.world(self.root, network_hook=network_hook)
        self.addCleanup(self.world.journal.engine.dispose)
        self.world.conf.libvirt.device_detach_attempts = 2
        self.world.conf.libvirt.device_detach_timeout = 0.1
        self.manager = Manager(self.world, workers=1)
        self.addCleanup(self.manager.park, PATIENCE)
        self.reconciler = Reconciler(self.manager, CONTEXT, lost_after=0)

    def run_now(self, verb: str, args: dict) -> None:
        request = f"req-{verb}-{len(self.world.journal.find())}"
        matrix.run_now(self.world, verb, args, {**CONTEXT, "request_id": request})

    def asked(self, verb: str) -> dict:
        args = ATTACH if verb == "attach_interface" else DETACH
        return {"instance": self.world.conductor.instance(CONTEXT, GUEST), **args}

    def do(self, verb: str) -> str:
        """Carry it out; how it ended."""
        self.run_now(verb, self.asked(verb))
        return self.world.journal.find()[-1].state

    def killed(self, verb: str, point: str) -> None:
        """An agent carries it out and is killed; the next one starts, to rest."""
        case = Case(verb, f"{verb}.{point}")
        args = self.asked(verb)
        self.world.journal.engine.dispose()
        self.assertTrue(os.WIFSIGNALED(child(first_life(self.root, case, args))), case.point)
        self.assertEqual(0, child(next_life(self.root, Case("", ""))))
        self.open()

    def nics(self) -> int:
        """How many NICs the guest has, about which all agree."""
        found = nics.macs(self.world, GUEST, CONTEXT)
        self.assertEqual(1, len({frozenset(macs) for macs in found.values()}), found)
        return len(found["guest"])

    def audit(self) -> list[str]:
        return [f["what"] for f in OperatorVerbs(self.reconciler, {}).audit()["findings"]]

    def nic(self):
        """The second NIC."""
        return next(nic for nic in wire.nics(self.world.conductor.fields(GUEST))
                    if nic.id == PORT)


class Row32Test(InterfaceFailureTest):
    """The guest refuses to let go of a device."""

    def test_row_32_it_keeps_the_nic_everywhere_and_can_be_asked_again(self):
        self.do("attach_interface")
        self.world.driver.stubborn = frozenset({self.nic().mac})
        self.assertEqual(rows.UNDONE, self.do("detach_interface"))
        self.assertIn("does not let go", self.world.conductor.read()["faults"][-1][1])
        self.assertEqual((2, []), (self.nics(), self.audit()))
        self.world.driver.stubborn = frozenset()
        self.assertEqual(rows.DONE, self.do("detach_interface"))
        self.assertEqual((1, []), (self.nics(), self.audit()))

    def test_row_32_one_that_lets_go_too_late_is_told_of(self):
        self.do("attach_interface")
        nic = self.nic()
        self.world.driver.stubborn = frozenset({nic.mac})
        self.do("detach_interface")
        self.world.driver.stubborn = frozenset()
        stored = self.world.driver._need(GUEST)
        self.world.driver._write(GUEST, {**stored, "live_nics": [
            mac for mac in stored["nics"] if mac != nic.mac]})
        [finding] = self.audit()
        self.assertIn("it has no such NIC", finding)


class Row34Test(InterfaceFailureTest):
    """The hypervisor's event that a device left was lost."""

    def test_row_34_what_the_hypervisor_shows_decides(self):
        """No event is ever sent here: it is looked all the same."""
        self.do("attach_interface")
        self.world.driver._on_event = lambda uuid, what: None
        self.assertEqual(rows.DONE, self.do("detach_interface"))
        self.assertEqual(1, self.nics())

    def test_row_34_killed_while_the_guest_lets_go(self):
        for moment in MOMENTS:
            self.build()
            self.do("attach_interface")
            self.killed("detach_interface", f"nic.{moment}")
            self.assertEqual((1, []), (self.nics(), self.audit()), moment)


class Row36Test(InterfaceFailureTest):
    """The network service fails an attach."""

    def test_row_36_nothing_is_left_of_it(self):
        for when in ("before", "after"):
            self.build()

            def fails(method: str, moment: str, when=when) -> None:
                if (method, moment) == ("attach", when):
                    raise Failed("The network service said no.", code="remote_error")

            self.open(network_hook=fails)
            self.assertEqual(rows.UNDONE, self.do("attach_interface"))
            self.assertEqual((1, []), (self.nics(), self.audit()), when)

    def test_row_36_one_that_is_away_is_asked_again(self):
        failed = []

        def away(method: str, moment: str) -> None:
            if (method, moment) == ("attach", "after") and len(failed) < 2:
                failed.append(method)
                raise Retryable("It does not answer.", code="unreachable")

        self.open(network_hook=away)
        self.assertEqual(rows.DONE, self.do("attach_interface"))
        self.assertEqual((2, []), (self.nics(), self.audit()))

    def test_row_36_killed_anywhere_it_is_done_when_the_agent_is_back(self):
        for step in ("port", "nic", "record"):
            for moment in MOMENTS:
                self.build()
                self.killed("attach_interface", f"{step}.{moment}")
                self.assertEqual((2, []), (self.nics(), self.audit()), f"{step}.{moment}")


class Row37Test(InterfaceFailureTest):
    """A port was deleted in the network service while it is attached."""

    def test_row_37_its_nic_goes_and_so_do_its_claims(self):
        self.do("attach_interface")
        self.world.networks.detach(CONTEXT, GUEST, PORT)
        self.assertEqual(rows.DONE, self.do("detach_interface"))
        self.assertEqual((1, []), (self.nics(), self.audit()))

    def test_row_37_and_a_guest_with_such_a_port_can_be_deleted(self):
        self.do("attach_interface")
        self.world.networks.detach(CONTEXT, GUEST, PORT)
        prim = self.world.conductor.set(GUEST, task_state=states.DELETING)
        self.run_now("delete", {"instance": prim, "bdms": {}})
        self.assertEqual(rows.DONE, self.world.journal.find()[-1].state)
        self.assertEqual([], self.world.journal.claims())
        self.assertEqual([], list((self.root / "ports").iterdir()))


class Row19Test(InterfaceFailureTest):
    """Killed with the task soft-deleting or restoring."""

    def test_row_19_it_is_done_when_the_agent_is_back(self):
        for verb, task, vm_state, power in (
                ("soft_delete", states.SOFT_DELETING, states.SOFT_DELETED, states.SHUTDOWN),
                ("restore", states.RESTORING, states.ACTIVE, states.RUNNING)):
            args = {"instance": self.world.conductor.set(GUEST, task_state=task)}
            self.world.journal.engine.dispose()
            case = Case(verb, f"{verb}.{'off' if verb == 'soft_delete' else 'power'}.after_effect")
            self.assertTrue(os.WIFSIGNALED(child(first_life(self.root, case, args))))
            self.assertEqual(0, child(next_life(self.root, Case("", ""))))
            self.open()
            fields = self.world.conductor.fields(GUEST)
            self.assertEqual((vm_state, None), (fields["vm_state"], fields["task_state"]))
            self.assertEqual(power, self.world.driver.state(GUEST).power_state)
            self.assertEqual([], self.audit())

    def test_row_19_a_message_that_never_came_is_done_too(self):
        for task, vm_state in ((states.SOFT_DELETING, states.SOFT_DELETED),
                               (states.RESTORING, states.ACTIVE)):
            self.world.conductor.set(GUEST, task_state=task)
            self.reconciler.run_pass()
            wait_until(lambda: not self.manager.running())
            self.assertEqual(vm_state, self.world.conductor.fields(GUEST)["vm_state"])
        self.assertEqual([], self.audit())
