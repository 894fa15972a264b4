"""Each rule of the invariants: what breaks it, and what does not."""

from __future__ import annotations

from dataclasses import replace

import testtools

from compute.model import states
from compute.model.numa import GuestCell, Placed, Placement
from compute.model.pci import Given
from compute.recovery.invariants import STUCK_SECONDS, check
from compute.recovery.observe import Observation
from db.journal import rows
from db.journal.rows import Claim
from tests.unit.test_recovery_decide import UNKNOWN, UUID, domain, fact, guest, operation, record

ALL = ("domain", "disks", "ports", "resources")


def well(**facts):
    """A guest with which all is well."""
    found = guest(domain(states.RUNNING), True, record())
    claims = tuple(Claim(kind, UUID, UUID, "op", {}, 1.0) for kind in ALL)
    return replace(found, claims=claims, **facts)


class InvariantTest(testtools.TestCase):
    def check(self, facts, unknown=(), now=None):
        seen = Observation(1000.0, {UUID: facts}, (), tuple(unknown))
        found = check(seen, now=now)
        for finding in found:
            self.assertTrue(finding.what and finding.next, finding)
            self.assertIn(finding.subject, (UUID, "hypervisor"))
        return [(f.rule, f.what) for f in found]

    def rules(self, facts, **kwargs):
        return [rule for rule, _ in self.check(facts, **kwargs)]

    def test_all_is_well(self):
        self.assertEqual([], self.rules(well()))
        for vm_state, dom in ((states.STOPPED, domain(states.SHUTDOWN)),
                              (states.ERROR, domain(states.SHUTDOWN)),
                              (states.PAUSED, domain(states.POWER_PAUSED)),
                              (states.SUSPENDED, domain(states.SHUTDOWN, saved=True))):
            facts = well(domain=fact(dom), record=fact(record(vm_state)))
            self.assertEqual([], self.rules(facts))

    def test_no_cpu_and_no_device_is_two_guests_own(self):
        def on(uuid, cpu):
            cell = GuestCell(0, (0,), 64, (0,))
            held = {"numa": Placement((Placed(cell, 0, {0: cpu}),), "dedicated").to_plain(),
                    "pci": [Given("nic", f"0000:06:12.{cpu}").to_plain()]}
            claims = tuple(Claim(kind, uuid, uuid, "op", held if kind == "resources" else {}, 1.0)
                           for kind in ALL)
            return replace(well(), uuid=uuid, claims=claims)

        twice = "Host CPU 3, device 0000:06:12.3 are its own and those of "
        for cpu, wanted in ((3, [("places", twice)]), (4, [])):
            seen = Observation(1000.0, {UUID: on(UUID, 3), "other": on("other", cpu)}, (), ())
            found = [(each.rule, each.what[:len(twice)]) for each in check(seen)]
            self.assertEqual(wanted, found)

    def test_every_operation_ends(self):
        waiting = operation(state=rows.NEEDS_OPERATOR, updated=999.0,
                            error={"what": "Stuck.", "next": "Do it."})
        [(rule, what)] = self.check(well(operation=waiting))
        self.assertEqual(("ends", True), (rule, "Stuck." in what))
        silent = operation(updated=1000.0 - STUCK_SECONDS - 1)
        self.assertIn("no sign of life", self.check(well(operation=silent))[0][1])
        self.assertEqual([], self.rules(well(operation=operation(updated=999.0))))

    def test_an_operation_that_goes_on_excuses_the_rest(self):
        facts = well(operation=operation(updated=999.0), disks=fact(False),
                     record=fact(record(task="rebooting")))
        self.assertEqual([], self.rules(facts))

    def test_what_is_ours_has_an_owner(self):
        facts = well(record=fact(None))
        self.assertEqual(["owner", "owner", "owner"], self.rules(facts))
        nothing = replace(facts, domain=fact(None), disks=fact(False), claims=())
        self.assertEqual([], self.rules(nothing))

    def test_what_is_there_is_claimed(self):
        for missing in ("domain", "disks"):
            facts = well()
            facts = replace(facts, claims=tuple(c for c in facts.claims if c.kind != missing))
            self.assertEqual(["claims"], self.rules(facts))

    def test_a_guest_has_its_disks(self):
        [(rule, what)] = self.check(well(disks=fact(False)))
        self.assertEqual(("disks", "It is active and has no disks here."), (rule, what))

    def test_a_task_has_an_operation(self):
        self.assertEqual(["task"], self.rules(well(record=fact(record(task="rebooting")))))

    def test_states_agree(self):
        off, on = fact(domain(states.SHUTDOWN)), fact(domain(states.RUNNING))
        self.assertEqual(["power"], self.rules(well(domain=off)))
        self.assertEqual(["power"], self.rules(well(domain=fact(None))))
        self.assertEqual(["power"], self.rules(well(domain=on, record=fact(record("stopped")))))
        self.assertEqual(["power"], self.rules(well(domain=on, record=fact(record("error")))))

    def test_guests_asleep_agree(self):
        on, paused = domain(states.RUNNING), domain(states.POWER_PAUSED, "ioerror")
        off, saved = domain(states.SHUTDOWN), domain(states.SHUTDOWN, saved=True)
        for vm_state, dom, rule, text in (
                (states.ACTIVE, paused, "power", "stands still: its storage failed"),
                (states.ACTIVE, saved, "power", "does not run"),
                (states.PAUSED, on, "power", "let it go on behind our back"),
                (states.PAUSED, off, "power", "not in the hypervisor's memory"),
                (states.PAUSED, None, "power", "not in the hypervisor's memory"),
                (states.SUSPENDED, on, "power", "somebody started it"),
                (states.SUSPENDED, paused, "power", "somebody started it"),
                (states.SUSPENDED, off, "memory", "its saved memory is not here"),
                (states.SUSPENDED, None, "memory", "its saved memory is not here")):
            [(found, what)] = self.check(well(domain=fact(dom), record=fact(record(vm_state))))
            self.assertEqual(rule, found)
            self.assertIn(text, what)

    def test_a_guest_has_its_devices(self):
        facts = well()
        out = Claim("unplugged", UUID, UUID, "op", {"devices": ["<hostdev/>"]}, 1.0)
        facts = replace(facts, claims=(*facts.claims, out))
        self.assertEqual(["devices"], self.rules(facts))
        asleep = replace(facts, domain=fact(domain(states.SHUTDOWN, saved=True)),
                         record=fact(record(states.SUSPENDED)))
        self.assertEqual([], self.rules(asleep))

    def test_what_cannot_be_seen_is_said_and_nothing_else_is_guessed(self):
        for name in ("domain", "disks", "record"):
            facts = well(**{name: fact(UNKNOWN)})
            self.assertEqual(["observable"],
                             self.rules(facts, unknown=["hypervisor: it does not answer"]))
