"""shelve, shelve_offload and unshelve through RPC, agent and fake driver."""

from __future__ import annotations

import json

from compute.errors import Failed, Refused, Retryable
from compute.model import states
from compute.rpc import primitives
from compute.services import images
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import AgentTest, Once
from tests.waiting import wait_until


class ShelveTest(AgentTest):
    def setUp(self) -> None:
        super().setUp()
        self.patch(images, "_inspect", lambda path, image: None)  # a fake's disk is no disk
        self.cloud.network()

    def boot(self, name: str = "web") -> str:
        return self.cloud.boot(name, networks=["net"], properties={"role": "front"})

    def fields(self, uuid: str) -> dict:
        return primitives.data(self.cloud.instance(uuid))

    def image(self, uuid: str) -> str | None:
        return self.fields(uuid)["system_metadata"].get("shelved_image_id")

    def images(self) -> list[str]:
        return [one["name"] for one in self.control.image_list()]

    def fault(self, uuid: str) -> str:
        with self.control.store.begin() as connection:
            return instances.faults(connection, [uuid])[0]["message"]

    def settled(self, uuid: str, vm_state: str) -> dict:
        shown = self.cloud.wait_for(uuid, vm_state)
        for host in self.cloud.hosts:
            host.at_rest()
        return shown

    def ended(self, uuid: str) -> dict:
        """Wait until nothing goes on, however it ended."""
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None,
                   lambda: self.cloud.story(uuid))
        self.host.at_rest()
        return self.cloud.show(uuid)

    def assert_gone(self, uuid: str, host=None) -> None:
        """Nothing of the guest is on its former host."""
        host = host or self.cloud.host
        self.assertIsNone(host.driver.state(uuid))
        self.assertFalse(host.driver._dir(uuid).exists())
        self.assertEqual([], host.agent.journal.claims(guest=uuid))
        self.assert_clean(host)


class AtOnceTest(ShelveTest):
    """As with Nova's default: a shelved guest leaves its host at once."""

    hosts = 2

    def test_away_and_back_on_another_host(self):
        uuid = self.boot()
        before, shown = self.fields(uuid), self.cloud.show(uuid)
        source = next(h for h in self.cloud.hosts if h.name == shown["host"])
        other = next(h for h in self.cloud.hosts if h is not source)
        count = source.driver.count_on_disk(uuid)
        self.control.server_shelve(uuid)
        away = self.settled(uuid, states.SHELVED_OFFLOADED)
        self.assertEqual((None, "shut down", shown["addresses"]), (
            away["host"], away["power_state"], away["addresses"]))
        self.assert_gone(uuid, source)
        self.assertIn("web-shelved", self.images())
        self.assertGreaterEqual(self.content(self.image(uuid))["count"], count)
        self.control.server_unshelve(uuid, host=other.name)
        now, after = self.settled(uuid, states.ACTIVE), self.fields(uuid)
        self.assertEqual((other.name, shown["addresses"], shown["image_id"]), (
            now["host"], now["addresses"], now["image_id"]))
        for key in ("metadata", "hostname", "flavor"):
            self.assertEqual(before[key], after[key], key)
        self.assertEqual([], [k for k in after["system_metadata"] if k.startswith("shelved")])
        self.assertNotIn("web-shelved", self.images())
        self.assertEqual(states.RUNNING, other.power(uuid))
        self.assertEqual("", self.disk(other, uuid).get("base", ""))
        self.assert_clean(other)
        self.assertEqual(
            [("shelve", "compute_shelve_instance", "Success"),
             ("unshelve", "compute_unshelve_instance", "Success")],
            [(a["action"], a["events"][0]["event"], a["events"][0]["result"])
             for a in self.control.server_actions(uuid)[1:]])

    def content(self, image: str) -> dict:
        with open(f"{self.cloud.images._directory}/{image}", "rb") as file:
            return json.loads(file.read())

    def disk(self, host, uuid: str) -> dict:
        return json.loads((host.driver._dir(uuid) / "disk").read_bytes())

    def test_a_build_that_fails_leaves_it_offloaded_with_its_image(self):
        uuid = self.boot()
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)
        for method in ("fetch_image", "create_disks", "define", "power_on"):
            for host in self.cloud.hosts:
                host.hook = Once(method, lambda: Failed("It is broken.", code="broken"))
            self.control.server_unshelve(uuid)
            shown = self.settled_as(uuid)
            self.assertEqual((states.SHELVED_OFFLOADED, None), (shown["vm_state"], shown["host"]))
            self.assertIn("It is broken", self.fault(uuid))
            self.assertIn("web-shelved", self.images())
            for host in self.cloud.hosts:
                host.hook = lambda method, when: None
                self.assert_gone(uuid, host)
        self.control.server_unshelve(uuid)
        self.settled(uuid, states.ACTIVE)

    def settled_as(self, uuid: str) -> dict:
        wait_until(lambda: self.cloud.show(uuid)["task_state"] is None,
                   lambda: self.cloud.story(uuid))
        for host in self.cloud.hosts:
            host.at_rest()
        return self.cloud.show(uuid)

    def test_a_message_that_is_lost_is_sent_again(self):
        uuid = self.boot()
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)
        cast = self.control.computes.cast
        self.control.computes.cast = lambda *args, **kwargs: None
        self.control.server_unshelve(uuid)
        self.control.computes.cast = cast
        self.control.resume_unshelving(3600)
        self.assertEqual(states.UNSHELVING, self.cloud.show(uuid)["task_state"])
        self.control.resume_unshelving(0)
        self.settled(uuid, states.ACTIVE)

    def test_a_message_that_cannot_be_sent_leaves_it_as_it_was(self):
        uuid = self.boot()
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)

        def away(*args, **kwargs):
            raise Retryable("The broker is away.", code="broker_unreachable")

        self.patch(self.control.computes, "cast", away)
        self.assertRaises(Retryable, self.control.server_unshelve, uuid)
        self.assertIsNone(self.cloud.show(uuid)["task_state"])

    def test_deleted_while_it_is_on_no_host_its_image_goes_too(self):
        uuid = self.boot()
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.control.server_delete(uuid)
        self.assertNotIn("web-shelved", self.images())
        self.assertEqual("deleted", self.cloud.show(uuid)["vm_state"])

    def test_refused_and_nothing_is_changed(self):
        uuid = self.boot()
        error = self.assertRaises(Refused, self.control.server_unshelve, uuid)
        self.assertEqual("bad_state", error.code)
        self.assert_speaks(error)
        self.assertEqual("bad_state", self.assertRaises(
            Refused, self.control.server_shelve_offload, uuid).code)
        self.cloud.change(uuid, vm_state=states.RESIZED)
        images = self.images()
        self.assertEqual("bad_state", self.assertRaises(
            Refused, self.control.server_shelve, uuid).code)
        self.assertEqual(images, self.images())
        self.cloud.change(uuid, vm_state=states.ACTIVE)
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.assertEqual("host_not_found", self.assertRaises(
            Refused, self.control.server_unshelve, uuid, host="nowhere").code)
        for verb in ("start", "stop", "shelve", "rebuild"):
            self.assertEqual("bad_state", self.assertRaises(
                Refused, getattr(self.control, f"server_{verb}"), uuid).code, verb)


class KeptTest(ShelveTest):
    """Shelved guests stay where they are until they are offloaded."""

    options = {"shelved_offload_time": -1}

    def shelved(self, name: str = "web") -> str:
        uuid = self.boot(name)
        self.control.server_shelve(uuid)
        self.settled(uuid, states.SHELVED)
        self.assertEqual(states.SHUTDOWN, self.host.power(uuid))
        self.assert_clean()
        return uuid

    def test_started_again_where_it_is(self):
        uuid = self.shelved()
        count = self.host.driver.count_on_disk(uuid)
        self.control.server_unshelve(uuid)
        self.settled(uuid, states.ACTIVE)
        self.assertGreater(self.host.driver.count_on_disk(uuid), count)
        self.assertIsNone(self.image(uuid))
        self.assertNotIn("web-shelved", self.images())
        self.assert_clean()

    def test_offloaded_when_somebody_asks(self):
        uuid = self.shelved()
        self.host.reconcile()
        self.assertEqual(states.SHELVED, self.cloud.show(uuid)["vm_state"])
        self.control.server_shelve_offload(uuid)
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.assert_gone(uuid)
        self.assertEqual("compute_shelve_offload_instance",
                         self.control.server_actions(uuid)[-1]["events"][0]["event"])

    def test_not_offloaded_without_its_image(self):
        uuid = self.shelved()
        self.control.image_delete(self.image(uuid))
        self.control.server_shelve_offload(uuid)
        self.assertEqual(states.SHELVED, self.ended(uuid)["vm_state"])
        self.assert_ended(rows.UNDONE, uuid, "shelve_offload")
        self.assertIn("is not there", self.fault(uuid))
        self.assertTrue(self.host.driver.disks(uuid))
        self.control.server_unshelve(uuid)
        self.settled(uuid, states.ACTIVE)
        self.assert_clean()

    def test_when_its_time_is_over_it_leaves_by_itself(self):
        uuid = self.shelved()
        self.cloud.set(shelved_offload_time=3600)
        self.host.reconcile()
        self.assertEqual(states.SHELVED, self.cloud.show(uuid)["vm_state"])
        kept = self.fields(uuid)["system_metadata"]
        self.cloud.change(uuid, system_metadata={**kept, "shelved_at": "2020-01-01T00:00:00Z"})
        self.host.reconcile()
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.assert_gone(uuid)

    def test_a_failure_lets_it_run_again(self):
        uuid = self.boot()
        self.host.hook = Once("copy_off", lambda: Failed("It cannot be copied.", code="broken"))
        self.control.server_shelve(uuid)
        self.assertEqual(states.ACTIVE, self.ended(uuid)["vm_state"])
        self.assertEqual(states.RUNNING, self.host.power(uuid))
        self.assertNotIn("web-shelved", self.images())
        self.assertIn("cannot be copied", self.fault(uuid))
        self.assert_clean()

    def test_lost_messages_are_done_all_the_same(self):
        uuid = self.shelved()
        self.cloud.change(uuid, task_state=states.SHELVING_OFFLOADING)
        self.host.reconcile()
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.assert_gone(uuid)

    def test_messages_as_nova_sends_them(self):
        uuid = self.boot()
        image = self.cloud.images.reserve(name="s", min_disk=0, min_ram=0, properties={})
        self.cloud.change(uuid, task_state=states.SHELVING)
        self.cloud.cast(uuid, "shelve_instance", image_id=image.id, clean_shutdown=True,
                        accel_uuids=[])
        self.settled(uuid, states.SHELVED)
        self.cloud.change(uuid, task_state=states.SHELVING_OFFLOADING)
        self.cloud.cast(uuid, "shelve_offload_instance", clean_shutdown=True, accel_uuids=[])
        self.settled(uuid, states.SHELVED_OFFLOADED)
        self.cloud.cast(uuid, "unshelve_instance", image={"id": image.id}, node=self.host.name,
                        filter_properties={"limits": {}}, request_spec=None, accel_uuids=[])
        wait_until(lambda: self.host.operations(uuid, "unshelve"))
        self.assert_ended(rows.UNDONE, uuid, "unshelve")  # nobody wants it
        self.assertEqual(states.SHELVED_OFFLOADED, self.cloud.show(uuid)["vm_state"])
        self.cloud.change(uuid, task_state=states.UNSHELVING)
        self.cloud.cast(uuid, "unshelve_instance", image={"id": image.id}, node=self.host.name,
                        filter_properties={"limits": {}}, request_spec=None, accel_uuids=[])
        self.settled(uuid, states.ACTIVE)
        self.assert_clean()
