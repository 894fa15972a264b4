"""Evacuation, and the host that comes back: rows 43 to 48 of the known partial failures.

Row 46 is in test_control_drain. Row 49 is about console tokens, which are not there yet.
"""

from __future__ import annotations

import json
import pathlib
import uuid as uuids

from compute.errors import Failed, Refused, Unknown
from compute.model import states
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.functional.live_support import CONTEXT, Agent, LiveTest
from tests.waiting import wait_until


class EvacuationTest(LiveTest):
    def evacuate(self, guest: str, dest: Agent | None = None, source: Agent | None = None,
                 **args) -> int:
        """What the conductor does; returns the migration's id."""
        source, dest = source or self.one, dest or self.two
        prim = self.conductor.set(guest, task_state=states.REBUILDING)
        migration = fakes.migration(guest, source.name, dest.name,
                                    migration_type="evacuation", status="accepted")
        self.conductor.add_migration(migration)
        dest.world.peers.cast(
            {**CONTEXT, "request_id": f"req-{uuids.uuid4()}"}, dest.name, "rebuild_instance",
            **{"instance": prim, "new_pass": None, "injected_files": None,
               "image_ref": fakes.IMAGE_ID, "orig_image_ref": fakes.IMAGE_ID,
               "orig_sys_metadata": None, "bdms": None, "recreate": True,
               "on_shared_storage": None, "preserve_ephemeral": False, "migration": migration,
               "scheduled_node": dest.name, "limits": {}, "request_spec": None,
               "accel_uuids": [], "reimage_boot_volume": False, "target_state": None, **args})
        return data(migration)["id"]

    def crash_host(self) -> None:
        """The first host loses power: its agent and its guests are gone."""
        self.one.stop()
        for uuid in list(self.one.world.driver.states()):
            self.one.world.driver.power_off(uuid)

    def passes(self, agent: Agent) -> None:
        agent.reconciler.run_pass()
        agent.at_rest()

    def test_made_again_elsewhere(self):
        guest = self.boot()
        self.crash_host()
        moving = self.evacuate(guest)
        self.two.at_rest()
        fields = self.conductor.fields(guest)
        self.assertEqual(("host2", "active", None),
                         (fields["host"], fields["vm_state"], fields["task_state"]))
        self.assertEqual("2", fields["system_metadata"]["magnetar_generation"])
        self.assertEqual("done", self.conductor.migration_fields(moving)["status"])
        self.assertEqual(states.RUNNING, self.two.world.driver.state(guest).power_state)

    def test_a_stopped_guest_stays_stopped(self):
        guest = self.boot()
        self.crash_host()
        self.conductor.set(guest, vm_state=states.STOPPED)
        self.evacuate(guest)
        self.two.at_rest()
        self.assertEqual("stopped", self.conductor.fields(guest)["vm_state"])
        self.assertEqual(states.SHUTDOWN, self.two.world.driver.state(guest).power_state)

    def test_row_43_the_source_comes_back_with_its_copy(self):
        """It was not fenced and still runs the guest: its copy stops, and its disks are kept."""
        guest = self.boot()
        self.one.stop()  # only the agent
        self.evacuate(guest)
        self.two.at_rest()
        self.one.start()
        self.passes(self.one)
        self.assertIsNone(self.one.world.driver.state(guest))
        self.assertEqual([], self.one.world.journal.claims(guest=guest))
        kept = list((self.one.world.driver.root / "_quarantine").iterdir())
        self.assertEqual([guest], [path.name.split(".")[0] for path in kept])
        self.assertEqual(states.RUNNING, self.two.world.driver.state(guest).power_state)

    def test_row_44_the_source_comes_back_before_it_has_ended(self):
        """Nothing is touched there while the evacuation goes on, and nothing when it fails."""
        guest = self.boot()
        self.crash_host()
        self.conductor.set(guest, task_state=states.REBUILDING)
        self.one.start()
        self.passes(self.one)
        self.assertIn(guest, self.one.world.driver.guest_dirs())
        self.assertEqual(states.SHUTDOWN, self.one.world.driver.state(guest).power_state)
        self.two.world.driver.power_on = _broken
        moving = self.evacuate(guest)
        self.two.at_rest()
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        self.passes(self.one)
        self.assertIn(guest, self.one.world.driver.guest_dirs())
        self.assertTrue(self.one.world.driver.disks(guest))

    def test_row_45_it_fails_late(self):
        """The destination takes back all of its half; the guest still belongs to its host."""
        guest = self.boot()
        self.crash_host()
        self.two.world.driver.power_on = _broken
        moving = self.evacuate(guest)
        self.two.at_rest()
        [row] = self.two.operations(guest, "evacuate")
        self.assertEqual(rows.UNDONE, row.state)
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        fields = self.conductor.fields(guest)
        self.assertEqual(("host1", None), (fields["host"], fields["task_state"]))
        self.assertIsNone(self.two.world.driver.state(guest))
        self.assertNotIn(guest, self.two.world.driver.guest_dirs())
        self.assertEqual([], self.two.world.journal.claims(guest=guest))

    def test_row_47_nothing_on_the_former_host_is_in_the_way_of_a_return(self):
        guest = self.boot()
        self.crash_host()
        self.evacuate(guest)
        self.two.at_rest()
        self.one.start()
        self.passes(self.one)
        self.wait(lambda: self.one.world.driver.state(guest) is None)
        self.one.at_rest()
        self.migrate(guest, source=self.two, dest=self.one)
        fields = self.settled(guest)
        self.assertEqual(("host1", "active", None),
                         (fields["host"], fields["vm_state"], fields["task_state"]))
        self.assertEqual(states.RUNNING, self.one.world.driver.state(guest).power_state)
        self.assertIsNone(self.two.world.driver.state(guest))

    def test_row_48_whether_storage_is_shared_cannot_be_told(self):
        """Nothing of the copy is touched, by either guess, until the other host has said it."""
        guest = self.boot()
        self.crash_host()
        self.evacuate(guest)
        self.two.at_rest()
        self.one.start()
        asked, answers = [], self.one.world.peers.ask

        def ask(host, method, **args):
            if method != "peer_storage" or len(asked) >= 2:
                return answers(host, method, **args)
            asked.append(self.one.world.driver.disks(guest))
            raise Unknown(f"Host {host} does not answer.", code="no_answer")

        self.one.world.peers.ask = ask
        self.passes(self.one)
        self.assertEqual(2, len(asked))
        self.assertTrue(all(asked), "its disks were touched on a guess")
        self.assertIsNone(self.one.world.driver.state(guest))
        self.assertTrue(self.two.world.driver.disks(guest))
        kept = self.one.world.driver.root / "_quarantine"
        self.assertEqual(not self.shared, kept.is_dir() and any(kept.iterdir()))

    def come_back(self) -> str:
        """The guest went to the second host, which is lost in turn before the first one, back
        again, has cleared what it still has. Returns the guest, to be evacuated to the first."""
        guest = self.boot()
        self.crash_host()
        self.evacuate(guest)
        self.two.at_rest()
        self.two.stop()
        self.two.world.driver.power_off(guest)
        self.conductor.set(guest, task_state=states.REBUILDING)
        self.one.start()
        return guest

    def return_home(self, guest: str, **args) -> dict:
        """Evacuate it to the first host; returns its migration's fields."""
        moving = self.evacuate(guest, dest=self.one, source=self.two, **args)
        self.one.at_rest()
        return self.conductor.migration_fields(moving)

    def kept(self) -> list[str]:
        """The guests whose disks are in the first host's quarantine."""
        kept = self.one.world.driver.root / "_quarantine"
        return [path.name.split(".")[0] for path in kept.iterdir()] if kept.is_dir() else []

    def test_an_earlier_stay_is_not_taken_for_the_newest(self):
        guest = self.come_back()
        [stale] = [d.path for d in self.one.world.driver.disks(guest) if d.role == "root"]
        starts = json.loads(pathlib.Path(stale).read_bytes())["count"]
        self.assertEqual("done", self.return_home(guest)["status"])
        fields = self.conductor.fields(guest)
        self.assertEqual(("host1", "active", None, "3"), (
            fields["host"], fields["vm_state"], fields["task_state"],
            fields["system_metadata"]["magnetar_generation"]))
        here = self.one.world.driver.state(guest)
        self.assertEqual((states.RUNNING, 3), (here.power_state, here.generation))
        self.assertEqual([] if self.shared else [guest], self.kept())
        now = json.loads(pathlib.Path(stale).read_bytes())["count"]
        self.assertEqual(starts + 1 if self.shared else 1, now)

    def test_storage_that_the_lost_host_never_told_of(self):
        """Neither used nor put away: what is found may be the only copy, or a stale one."""
        guest = self.come_back()
        self.one.world.conductor.storage = lambda host: None
        self.assertEqual("failed", self.return_home(guest)["status"])
        [row] = self.one.operations(guest, "evacuate")
        self.assertEqual("storage_unknown", row.error["code"])
        self.assertTrue(self.one.world.driver.disks(guest))
        self.assertEqual([], self.kept())
        self.assertEqual("host2", self.conductor.fields(guest)["host"])

    def test_a_domain_that_is_no_older_than_the_record(self):
        guest = self.come_back()
        metadata = self.conductor.fields(guest)["system_metadata"]
        self.conductor.set(guest, system_metadata={**metadata, "magnetar_generation": "1"})
        self.assertEqual("failed", self.return_home(guest)["status"])
        [row] = self.one.operations(guest, "evacuate")
        self.assertEqual("two_copies", row.error["code"])
        self.assertEqual(1, self.one.world.driver.state(guest).generation)
        self.assertTrue(self.one.world.driver.disks(guest))

    def test_a_guest_with_a_tpm_is_not_evacuated(self):
        """The TPM's state is on the lost host; a guest with a new one could not read its disks."""
        guest = self.boot()
        tpm = fakes.flavor(extra_specs={"hw:tpm_version": "2.0"})
        self.conductor.set(guest, flavor=tpm)
        self.crash_host()
        moving = self.evacuate(guest)
        self.two.at_rest()
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        [row] = self.two.operations(guest, "evacuate")
        self.assertEqual("tpm_stays", row.error["code"])
        self.assertEqual([], self.two.world.journal.claims(guest=guest))

    def test_no_room(self):
        guest = self.boot()
        self.crash_host()
        self.two.world.inventory.check = _full
        moving = self.evacuate(guest)
        self.two.at_rest()
        self.assertEqual("failed", self.conductor.migration_fields(moving)["status"])
        self.assertEqual([], self.two.world.journal.claims(guest=guest))

    def test_nothing_is_cleared_without_a_proof(self):
        """The record says another host, and that host does not know the guest."""
        guest = self.boot()
        self.conductor.set(guest, host="host2")
        self.one.reconciler.run_pass()
        self.one.reconciler.run_pass()
        self.assertEqual(states.RUNNING, self.one.world.driver.state(guest).power_state)
        self.assertIn(guest, self.one.world.driver.guest_dirs())
        wait_until(lambda: "does not know it" in str(
            self.one.operations(guest, "vacate")[0].message))
        self.assertEqual(states.RUNNING, self.one.world.driver.state(guest).power_state)


class SharedStorageTest(EvacuationTest):
    """The disks are on storage that both hosts see."""

    shared = True

    def test_row_43_the_source_comes_back_with_its_copy(self):
        """Its copy stops; the disks are the other host's and stay where they are."""
        guest = self.boot()
        self.one.stop()
        self.evacuate(guest, on_shared_storage=True)
        self.two.at_rest()
        self.one.start()
        self.passes(self.one)
        self.assertIsNone(self.one.world.driver.state(guest))
        self.assertTrue(self.two.world.driver.disks(guest))

    def test_row_45_it_fails_late(self):
        guest = self.boot()
        self.crash_host()
        self.two.world.driver.power_on = _broken
        self.evacuate(guest)
        self.two.at_rest()
        self.assertIsNone(self.two.world.driver.state(guest))
        self.assertTrue(self.one.world.driver.disks(guest))
        self.assertEqual([], self.two.world.journal.claims(guest=guest))


def _broken(uuid: str) -> None:
    raise Failed(f"{uuid} does not start.", code="start_failed")


def _full(guest, need, moving=False) -> None:
    raise Refused(f"Guest {guest} does not fit.", code="no_room")
