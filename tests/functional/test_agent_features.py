"""What flavors and images ask for, through the agents: refused before anything is made where the
host cannot give it, and carried along wherever the guest goes."""

from __future__ import annotations

import json
import pathlib
import uuid as uuids

from compute.errors import Refused
from compute.model import states
from compute.model.move import Check
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.functional.live_support import CONTEXT
from tests.functional.resize_support import LARGE, ResizeTest

UEFI = {"image_hw_firmware_type": "uefi"}
MORE_DISKS = {"ephemeral_gb": 1, "swap": 64}
TPM = {"extra_specs": {"hw:tpm_version": "2.0"}}


class FeatureTest(ResizeTest):
    def build(self, system_metadata: dict | None = None, **flavor) -> str:
        """Ask the first host for a guest, and wait until its operation ended."""
        prim = fakes.instance(flavor=fakes.flavor(**flavor), system_metadata=system_metadata or {})
        self.conductor.add(prim)
        uuid = data(prim)["uuid"]
        self.one.manager.accept("spawn", uuid, f"req-{uuids.uuid4()}",
                                fakes.build_args(prim), CONTEXT)
        self.one.at_rest()
        return uuid

    def roles(self, agent, uuid: str) -> list[str]:
        return [disk.role for disk in agent.world.driver.disks(uuid)]

    def mark(self, agent, uuid: str, role: str) -> None:
        """The guest writes to one of its files."""
        [path] = [d.path for d in agent.world.driver.disks(uuid) if d.role == role]
        found = json.loads(pathlib.Path(path).read_bytes())
        pathlib.Path(path).write_text(json.dumps({**found, "marker": f"the guest's {role}"}))

    def assert_marked(self, agent, uuid: str, *wanted: str) -> None:
        for disk in agent.world.driver.disks(uuid):
            if disk.role in wanted:
                found = json.loads(pathlib.Path(disk.path).read_bytes())
                self.assertEqual(f"the guest's {disk.role}", found["marker"])


class RefusedTest(FeatureTest):
    def test_what_the_host_has_not_is_refused_before_anything_is_made(self):
        self.one.world.driver.lacks = frozenset(["hw:magic"])
        guest = self.build(extra_specs={"hw:magic": "yes"})
        [row] = self.one.operations(guest, "spawn")
        self.assertEqual((rows.UNDONE, "host_unfit"), (row.state, row.error["code"]))
        self.assertIn("no hw:magic", row.error["what"])
        self.assertNotIn("create_disks", self.one.world.driver.calls)
        self.assertEqual([], self.one.world.journal.claims(guest=guest))

    def test_a_resize_to_what_the_host_has_not_is_refused_while_the_guest_runs(self):
        guest = self.build()
        self.two.world.driver.lacks = frozenset(["hw:magic"])
        id = self.ask(guest, flavor={**LARGE, "extra_specs": {"hw:magic": "yes"}})
        self.until(guest, states.ACTIVE)
        self.assertEqual("error", self.status(id))
        self.assertIn("no hw:magic", self.faults(guest)[0])
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertEqual({}, self.claims(self.two, guest))
        self.assert_sound()

    def test_a_live_migration_names_what_is_missing_there(self):
        guest = self.build()
        self.two.world.driver.verdicts = {"in": (
            Check("hardware", False, "no TPM, since swtpm is not installed", "Install it."),)}
        error = self.assertRaises(Refused, self.migrate, guest)
        self.assertIn("hardware: no TPM", error.what)

    def test_a_tpm_keeps_a_guest_that_is_off_on_its_host(self):
        guest = self.build(**TPM)
        id = self.ask(guest, flavor={**LARGE, **TPM})
        self.until(guest, states.ACTIVE)
        self.assertEqual("error", self.status(id))
        self.assertIn("TPM", self.faults(guest)[0])
        self.assertEqual([], self.conductor.read()["rescheduled"])
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assert_sound()

    def test_a_tpm_does_not_hinder_a_resize_on_its_host_nor_a_live_migration(self):
        guest = self.build(**TPM)
        id = self.resized(guest, dest=self.one, flavor={**LARGE, **TPM})
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.migrate(guest)
        self.assert_on(guest, self.two)


    def test_a_flavor_with_other_hardware_restarts_a_guest_that_could_stay_up(self):
        self.one.world.conf.live_resize = True
        self.one.world.driver.headroom = 4
        for specs, restarted in (({}, False), ({"hw:sound_model": "ich9"}, True)):
            guest = self.build()
            flavor = {**LARGE, "root_gb": 1, "extra_specs": specs}
            self.resized(guest, dest=self.one, flavor=flavor)
            self.assertEqual(restarted, "set_aside_disks" in self.one.world.driver.calls)


class CarriedTest(FeatureTest):
    def test_ephemeral_swap_and_variables_go_along_and_away(self):
        guest = self.build(UEFI, **MORE_DISKS)
        every = ["root", "ephemeral", "swap", "config", "nvram"]
        self.assertEqual(every, sorted(self.roles(self.one, guest), key=every.index))
        for role in ("ephemeral", "nvram"):
            self.mark(self.one, guest, role)
        self.migrate(guest)
        self.assert_on(guest, self.two)
        self.assert_marked(self.two, guest, "ephemeral", "nvram")
        self.assertEqual(5, len(self.roles(self.two, guest)))

    def test_they_go_along_cold_and_come_back(self):
        guest = self.build(UEFI, **MORE_DISKS)
        for role in ("ephemeral", "nvram"):
            self.mark(self.one, guest, role)
        id = self.resized(guest, flavor={**LARGE, "ephemeral_gb": 2, "swap": 0})
        self.assertEqual({"root", "ephemeral", "config", "nvram"},
                         set(self.roles(self.two, guest)))
        self.assert_marked(self.two, guest, "ephemeral", "nvram")
        sizes = {d.role: d.size for d in self.two.world.driver.disks(guest)}
        self.assertEqual(2 << 30, sizes["ephemeral"])
        self.revert(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual(5, len(self.roles(self.one, guest)))
        self.assert_marked(self.one, guest, "ephemeral", "nvram")
        self.assert_sound()

    def test_a_resize_brings_what_the_flavor_brings(self):
        guest = self.build()
        id = self.resized(guest, dest=self.one, flavor={**LARGE, **MORE_DISKS})
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual({"root", "ephemeral", "swap", "config"},
                         set(self.roles(self.one, guest)))
        self.assertEqual(4, self.claims(self.one, guest)["resources"]["disk_gb"])
        self.assert_sound()
