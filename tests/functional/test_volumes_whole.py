"""Volumes from the control plane's verbs through the agent to the fake hypervisor, and back."""

from __future__ import annotations

from typing import Any

import testtools

from compute.operations import OPERATIONS
from db.control import services
from db.journal import rows
from tests.functional.agent_support import SharedTest
from tests.waiting import wait_until

VERBS = {"attach_volume", "detach_volume"}


@testtools.skipUnless(set(OPERATIONS) >= VERBS, "this agent carries no verbs of volumes out")
class WholeTest(SharedTest):
    options = {"volume_service": "embedded"}

    def status(self, volume: str) -> str:
        return self.control.volume_show(volume)["status"]

    def until(self, volume: str, status: str) -> None:
        wait_until(lambda: self.status(volume) == status, self.control.volume_list)

    def at_rest(self, uuid: str) -> None:
        """Wait until the agent is at nothing."""
        wait_until(lambda: not [row for row in self.host.operations(uuid) if row.active])

    def attached(self, uuid: str, volume: str, size: int = 1, **more: Any) -> dict[str, Any]:
        """A new volume in a server."""
        made = self.control.volume_create(volume, size)
        self.control.server_add_volume(uuid, volume, **more)
        self.until(volume, "in-use")
        self.at_rest(uuid)
        return made

    def force_down(self, down: bool) -> None:
        with self.control.store.begin() as connection:
            services.save(connection, services.get(connection, "host1")["id"],
                          {"forced_down": down})

    def test_boot_from_volumes_and_delete(self):
        made = self.control.server_create(
            "bfv", "tiny", "small", networks="none", boot_from_volume=1, block_devices=[
                {"source_type": "blank", "volume_size": 1, "delete_on_termination": True}])
        uuid = made["id"]
        wait_until(lambda: self.control.server_show(uuid)["vm_state"] == "active")
        root, blank = self.control.server_volumes(uuid)
        self.assertEqual((0, "in-use"), (root["boot_index"], self.status(root["volume_id"])))
        self.control.server_delete(uuid)
        self.until(root["volume_id"], "available")
        wait_until(lambda: blank["volume_id"] not in
                   [volume["id"] for volume in self.control.volume_list()])
        self.at_rest(uuid)
        self.assert_clean()

    def test_a_lost_host_that_comes_back_gives_volumes_back(self):
        uuid = self.cloud.boot("gone")
        doomed = self.attached(uuid, "gone-a", delete_on_termination=True)
        self.attached(uuid, "gone-b")
        self.force_down(True)
        self.addCleanup(self.force_down, False)
        self.control.server_delete(uuid)
        self.assertEqual(("in-use", "in-use"), (self.status("gone-a"), self.status("gone-b")))
        self.host.reconcile()
        self.assert_ended(rows.DONE, uuid, "reap")
        self.until("gone-b", "available")
        self.assertNotIn(doomed["id"], [row["id"] for row in self.control.volume_list()])
        self.assert_clean()
