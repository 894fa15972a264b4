"""Volumes that come, grow, are exchanged and go, through RPC, agent and fake driver."""

from __future__ import annotations

from compute.errors import Refused, Retryable
from compute.model import mappings, states
from compute.operator.verbs import OperatorVerbs
from compute.recovery.timers import Timers
from compute.rpc import primitives
from compute.rpc.exceptions import nova_exception
from compute.rpc.serializer import admin_context
from compute.services import images
from compute.steps.attached import KIND
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest
from tests.waiting import wait_until

GONE = "aaaaaaaa-0000-4000-8000-000000000009"


class VolumeTest(SharedTest):
    options = {"volume_service": "embedded"}

    def setUp(self) -> None:
        super().setUp()
        self.host.driver.clinging = frozenset()
        self.host.driver.crowded = False
        self.cloud.set(libvirt__device_detach_attempts=2, libvirt__device_detach_timeout=1,
                       timeouts__reserved_volume=3600)

    def volume(self, name: str, **how) -> str:
        """A volume of the embedded service."""
        made = self.control.volume_create(name, **{"size": 1, **how})["id"]
        wait_until(lambda: self.status(made) == "available")
        return made

    def status(self, volume: str) -> str:
        return self.control.volume_show(volume)["status"]

    def mappings(self, uuid: str) -> dict[str, dict]:
        """The mappings of a server's volumes, by volume."""
        found = self.host.agent.conductor.bdms(self.host.agent.context, uuid)
        return {primitives.data(p)["volume_id"]: primitives.data(p)
                for p in mappings.of_volumes(found)}

    def volumes(self, uuid: str) -> set[str]:
        """What every part of the world agrees about: the volumes that the guest has."""
        driver, journal = self.host.driver, self.host.agent.journal
        stored, live = driver.volumes(uuid)
        claimed = [one["volume"] for claim in journal.claims(kind=KIND, guest=uuid)
                   for one in claim.data["volumes"]]
        serials = {one["serial"] or one["id"]: one["id"] for one in claimed}
        attached = {one["id"] for one in self.control.volume_list()
                    if [a for a in one["attachments"] if a["server_id"] == uuid]}
        paths = {mappings.connection_of(fields)["data"]["device_path"]
                 for fields in self.mappings(uuid).values()}
        self.assertEqual(paths, {path for path, owner in driver.connected_volumes()
                                 if owner == uuid})
        seen = {"claims": {one["id"] for one in claimed}, "mappings": set(self.mappings(uuid)),
                "service": attached, "definition": {serials.get(s, s) for s in stored},
                "guest": {serials.get(s, s) for s in (stored if live is None else live)}}
        self.assertEqual(1, len({frozenset(ids) for ids in seen.values()}), seen)
        return attached

    def attach(self, uuid: str, volume: str, **how) -> dict:
        """Attach and wait for the end; the mapping."""
        before = len(self.host.operations(uuid, "attach_volume"))
        self.control.server_add_volume(uuid, volume, **how)
        wait_until(lambda: len(self.host.operations(uuid, "attach_volume")) > before)
        self.ended(uuid, "attach_volume")
        return self.mappings(uuid)[volume]

    def ended(self, uuid: str, verb: str, state: str = rows.DONE):
        wait_until(lambda: [r for r in self.host.operations(uuid, verb) if not r.active],
                   self.host.story)
        return self.assert_ended(state, uuid, verb)

    def detach(self, uuid: str, volume: str, state: str = rows.DONE):
        """Detach and wait for the end of it."""
        before = len(self.host.operations(uuid, "detach_volume"))
        self.control.server_remove_volume(uuid, volume)
        wait_until(lambda: len(self.host.operations(uuid, "detach_volume")) > before)
        return self.ended(uuid, "detach_volume", state)

    def audit(self, uuid: str) -> list[str]:
        return [finding["what"] for finding in
                OperatorVerbs(self.host.agent.reconciler, {}).audit()["findings"]
                if finding["subject"] == uuid]

    def event(self, uuid: str) -> tuple:
        """The newest event that the tenant sees."""
        [last] = self.control.server_actions(uuid)[-1]["events"]
        return last["event"], last["result"]

    def call(self, uuid: str, method: str, **args):
        return self.cloud.client().call(admin_context(), method,
                                        instance=self.cloud.instance(uuid), **args)

    def reserve(self, uuid: str, volume: str, **args) -> dict:
        """reserve_block_device_name as Nova's API calls it."""
        given = {"device": None, "disk_bus": None, "device_type": None, "tag": None,
                 "multiattach": False, **args}
        return primitives.data(self.call(uuid, "reserve_block_device_name", volume_id=volume,
                                         **given))


class AttachTest(VolumeTest):
    def test_a_running_server_gets_one_and_gives_it_back(self):
        uuid, volume = self.cloud.boot("web"), self.volume("data")
        found = self.attach(uuid, volume)
        self.assertEqual(("/dev/vdb", "virtio"), (found["device_name"], found["disk_bus"]))
        self.assertEqual(({volume}, "in-use"), (self.volumes(uuid), self.status(volume)))
        self.assertEqual(("compute_attach_volume", "Success"), self.event(uuid))
        self.assertEqual([], self.audit(uuid))
        self.detach(uuid, volume)
        self.assertEqual((set(), "available"), (self.volumes(uuid), self.status(volume)))
        self.assertEqual(("compute_detach_volume", "Success"), self.event(uuid))
        self.assertEqual([], self.audit(uuid))
        self.assert_clean()

    def test_stopped_and_paused_servers_too(self):
        uuid, one, two = self.cloud.boot("off"), self.volume("one"), self.volume("two")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.attach(uuid, one, device="/dev/vdk")
        self.assertEqual("/dev/vdk", self.mappings(uuid)[one]["device_name"])
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual({one}, self.volumes(uuid))
        self.control.server_pause(uuid)
        self.cloud.wait_for(uuid, states.PAUSED)
        self.attach(uuid, two)
        self.detach(uuid, one)
        self.assertEqual({two}, self.volumes(uuid))
        self.assert_clean()

    def test_what_comes_later_keeps_it_connected(self):
        uuid, volume = self.cloud.boot("keeps"), self.volume("kept")
        self.attach(uuid, volume)
        for ask, vm_state in (
                (lambda: self.control.server_reboot(uuid, hard=True), states.ACTIVE),
                (lambda: self.control.server_suspend(uuid), states.SUSPENDED),
                (lambda: self.control.server_resume(uuid), states.ACTIVE),
                (lambda: self.control.server_rebuild(uuid), states.ACTIVE),
                (lambda: self.control.server_rescue(uuid), states.RESCUED),
                (lambda: self.control.server_unrescue(uuid), states.ACTIVE)):
            ask()
            self.cloud.wait_for(uuid, vm_state)
            self.host.at_rest()
            self.assertEqual({volume}, self.volumes(uuid))
        self.assertEqual([], self.audit(uuid))

    def test_tags_are_told_to_the_guest(self):
        uuid, volume = self.cloud.boot("tagged"), self.volume("labelled")
        self.attach(uuid, volume, tag="logs")
        self.assertEqual({volume: ["logs"]}, self.told(uuid))
        self.detach(uuid, volume)
        self.assertEqual({}, self.told(uuid))

    def told(self, uuid: str) -> dict[str, list[str]]:
        """Tags by serial number, as Nova's metadata service reads them."""
        with self.control.store.begin() as connection:
            row = instances.get(connection, uuid, extra=("device_metadata",))
        return {one["serial"]: one["tags"] for one in (
            primitives.data(p) for p in primitives.data(row["device_metadata"])["devices"])}

    def test_what_cannot_be_is_answered_as_nova_does(self):
        uuid, volume = self.cloud.boot("answers"), self.volume("asked")
        self.attach(uuid, volume)
        error = self.assertRaises(nova_exception("InvalidVolume"), self.reserve, uuid, volume)
        self.assertIn("already", str(error))
        self.assertRaises(nova_exception("DevicePathInUse"), self.reserve, uuid, GONE,
                          device="/dev/vda")
        self.cloud.set(compute__max_disk_devices_to_attach=2)
        self.addCleanup(self.cloud.set, compute__max_disk_devices_to_attach=-1)
        error = self.assertRaises(nova_exception("TooManyDiskDevices"), self.reserve, uuid, GONE)
        self.assertIn("max_disk_devices_to_attach", str(error))
        self.assertEqual({volume}, self.volumes(uuid))

    def test_a_serial_that_repeats_is_refused_and_given_back(self):
        """The guest has a disk with this serial number, of which nobody knows."""
        uuid, volume = self.cloud.boot("repeats"), self.volume("twin")
        domain = self.host.driver._need(uuid)
        self.host.driver._write(uuid, {**domain, "volumes": {
            volume: {"path": "/elsewhere", "target": "vdz"}}})
        self.control.server_add_volume(uuid, volume)
        row = self.ended(uuid, "attach_volume", rows.UNDONE)
        self.assertEqual("volume_attached", row.error["code"])
        self.assert_speaks(row.error)
        self.host.driver._write(uuid, domain)
        self.assertEqual((set(), "available"), (self.volumes(uuid), self.status(volume)))

    def test_a_message_that_comes_twice_takes_nothing_away(self):
        uuid, volume = self.cloud.boot("twice"), self.volume("once")
        fields = self.attach(uuid, volume)
        prim = primitives.make("BlockDeviceMapping", {**fields, "connection_info": None},
                               changes=())
        self.cloud.cast(uuid, "attach_volume", bdm=prim)
        wait_until(lambda: len(self.host.operations(uuid, "attach_volume")) == 2)
        self.assert_ended(rows.UNDONE, uuid, "attach_volume")
        self.assertEqual({volume}, self.volumes(uuid))
        self.detach(uuid, volume)

    def test_a_hypervisor_that_cannot_leaves_nothing_behind(self):
        uuid, volume = self.cloud.boot("full"), self.volume("extra")
        self.host.driver.crowded = True
        self.control.server_add_volume(uuid, volume)
        row = self.ended(uuid, "attach_volume", rows.UNDONE)
        self.assertIn("no free slot", row.error["what"])
        self.assertEqual((set(), "available"), (self.volumes(uuid), self.status(volume)))
        self.assertEqual(("compute_attach_volume", "Error"), self.event(uuid))
        self.assert_clean()

    def test_a_delete_in_the_middle(self):
        uuid, volume = self.cloud.boot("doomed"), self.volume("freed")
        gate = self.host.hook = Gate("attach_volume")
        self.control.server_add_volume(uuid, volume)
        gate.wait()
        self.control.server_delete(uuid)
        gate.open = True
        wait_until(lambda: self.cloud.show(uuid)["vm_state"] == states.DELETED)
        self.host.at_rest()
        self.assertEqual("available", self.status(volume))
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assert_clean()

    def test_what_was_reserved_and_never_attached_is_given_back(self):
        """[timeouts] reserved_volume."""
        uuid, volume = self.cloud.boot("lost"), self.volume("forgotten")
        self.reserve(uuid, volume)
        timers = Timers(self.host.agent.manager, self.host.agent.context)
        timers.run_pass(self.host.agent.reconciler.run_pass())
        self.assertEqual([], self.host.operations(uuid, "detach_volume"))
        self.cloud.set(timeouts__reserved_volume=10)
        clock = self.host.agent.world.clock
        now = clock.now()
        self.patch(clock, "now", lambda: now + 11)
        timers.run_pass(self.host.agent.reconciler.run_pass())
        self.ended(uuid, "detach_volume")
        self.assertEqual({}, self.mappings(uuid))
        self.assertEqual(set(), self.volumes(uuid))

    def test_a_service_that_is_away_is_asked_again(self):
        uuid, volume = self.cloud.boot("patient"), self.volume("late")
        self.host.hook = Once("connect_volume", lambda: Retryable("Not now."), times=2)
        self.attach(uuid, volume)
        self.assertEqual({volume}, self.volumes(uuid))


class DetachTest(VolumeTest):
    def test_a_guest_that_does_not_let_go_keeps_it_and_that_is_told(self):
        """device_detach_attempts times, device_detach_timeout seconds each time."""
        uuid, volume = self.cloud.boot("stubborn"), self.volume("held")
        self.attach(uuid, volume)
        self.host.driver.clinging = frozenset({volume})
        asked = self.host.driver.calls.get("detach_volume", 0)
        row = self.detach(uuid, volume, rows.UNDONE)
        self.assertEqual("device_stays", row.error["code"])
        self.assert_speaks(row.error)
        self.assertEqual(2, self.host.driver.calls["detach_volume"] - asked)
        self.assertEqual(({volume}, "in-use"), (self.volumes(uuid), self.status(volume)))
        self.assertEqual(("compute_detach_volume", "Error"), self.event(uuid))
        self.assertEqual([], self.audit(uuid))
        self.host.driver.clinging = frozenset()
        self.detach(uuid, volume)
        self.assertEqual((set(), "available"), (self.volumes(uuid), self.status(volume)))

    def test_an_event_of_the_hypervisor_ends_the_wait(self):
        uuid, volume = self.cloud.boot("later"), self.volume("slow")
        self.attach(uuid, volume)
        self.cloud.set(libvirt__device_detach_timeout=10_000)
        self.host.driver.clinging = frozenset({volume})
        self.control.server_remove_volume(uuid, volume)
        wait_until(lambda: [r for r in self.host.operations(uuid, "detach_volume")
                            if r.step == "volume"])
        self.host.driver.clinging = frozenset()
        self.host.driver.detach_volume(uuid, mappings.volume(self.mappings(uuid)[volume]))
        self.host.agent._event(uuid, "device")
        self.ended(uuid, "detach_volume")
        self.assertEqual(set(), self.volumes(uuid))

    def test_a_guest_that_is_gone_has_let_go(self):
        uuid, volume = self.cloud.boot("gone"), self.volume("free")
        self.attach(uuid, volume)
        self.host.driver.stop_domain(uuid)
        self.host.driver.undefine(uuid)
        self.detach(uuid, volume)
        self.assertEqual(("available", {}), (self.status(volume), self.mappings(uuid)))
        self.control.server_delete(uuid)

    def test_a_disk_that_went_behind_our_back_is_found(self):
        uuid, volume = self.cloud.boot("drift"), self.volume("drifted")
        self.attach(uuid, volume)
        domain = self.host.driver._need(uuid)
        self.host.driver._write(uuid, {**domain, "live_volumes": {}})
        [finding] = self.audit(uuid)
        self.assertIn("it has no such disk", finding)
        self.host.driver._write(uuid, domain)

    def test_one_that_is_none_of_the_servers(self):
        uuid = self.cloud.boot("other")
        self.cloud.cast(uuid, "detach_volume", volume_id=GONE, attachment_id=None)
        row = self.ended(uuid, "detach_volume", rows.UNDONE)
        self.assertEqual("volume_missing", row.error["code"])

    def test_remove_volume_connection(self):
        """Not while the guest is here and has it; else it is quiet about what is gone."""
        uuid, volume = self.cloud.boot("here"), self.volume("used")
        self.attach(uuid, volume)
        error = self.assertRaises(nova_exception("NovaException"), self.call, uuid,
                                  "remove_volume_connection", volume_id=volume)
        self.assertIn("is on this host", str(error))
        self.assertEqual({volume}, self.volumes(uuid))
        self.call(uuid, "remove_volume_connection", volume_id=GONE)


class GrowAndSwapTest(VolumeTest):
    def test_a_running_server_sees_its_volume_grow(self):
        uuid, volume = self.cloud.boot("grows"), self.volume("growing")
        self.attach(uuid, volume)
        self.control.volume_set(volume, size=3)
        self.ended(uuid, "extend_volume")
        self.assertEqual({volume: 3 << 30}, self.host.driver._need(uuid)["sizes"])
        self.assertEqual(3, self.mappings(uuid)[volume]["volume_size"])
        self.assertEqual(("compute_extend_volume", "Success"), self.event(uuid))

    def test_another_one_takes_its_place(self):
        uuid, old, new = self.cloud.boot("swaps"), self.volume("old"), self.volume("new")
        self.attach(uuid, old)
        self.host.driver.fabric.set(copy_looks=3)
        self.addCleanup(self.host.driver.fabric.set, copy_looks=0)
        self.control.server_swap_volume(uuid, old, new)
        self.ended(uuid, "swap_volume")
        self.assertEqual({new}, self.volumes(uuid))
        self.assertEqual(("available", "in-use"), (self.status(old), self.status(new)))
        self.assertEqual(({old}, []), (set(self.host.driver.volumes(uuid)[1]), self.audit(uuid)))
        self.control.server_reboot(uuid, hard=True)
        self.ended(uuid, "reboot")
        self.assertEqual({new}, self.host.driver.volumes(uuid)[1])
        self.detach(uuid, new)

    def test_stopped_before_the_switch_all_is_as_before(self):
        uuid, old, new = self.cloud.boot("aborts"), self.volume("first"), self.volume("second")
        self.attach(uuid, old)
        self.host.driver.fabric.set(copy_looks=10_000_000)
        self.addCleanup(self.host.driver.fabric.set, copy_looks=0)
        self.control.server_swap_volume(uuid, old, new)
        wait_until(lambda: [r for r in self.host.operations(uuid, "swap_volume")
                            if r.step == "copy"])
        row = self.host.operations(uuid, "swap_volume")[-1]
        self.host.agent.manager.abort(row.id, "it takes too long")
        row = self.ended(uuid, "swap_volume", rows.UNDONE)
        self.assertEqual("aborted", row.error["code"])
        self.assertEqual({old}, self.volumes(uuid))
        self.assertEqual(("in-use", "available"), (self.status(old), self.status(new)))
        self.assertNotIn("swap", self.host.driver._need(uuid))

    def test_a_guest_that_is_off_cannot(self):
        uuid, old, new = self.cloud.boot("sleeps"), self.volume("here"), self.volume("there")
        attachment = self.attach(uuid, old)["attachment_id"]
        self.host.driver.stop_domain(uuid)
        port = self.host.agent.world.volumes
        made = port.attachment_create(self.host.agent.context, new, uuid)
        self.cloud.cast(uuid, "swap_volume", old_volume_id=old, new_volume_id=new,
                        new_attachment_id=made)
        row = self.ended(uuid, "swap_volume", rows.UNDONE)
        self.assertEqual("not_running", row.error["code"])
        self.assertEqual(attachment, self.mappings(uuid)[old]["attachment_id"])
        self.assertEqual("available", self.status(new))


class BootTest(VolumeTest):
    def test_from_an_image_with_further_volumes_which_end_with_it(self):
        kept = self.volume("kept")
        uuid = self.cloud.boot("booted", boot_from_volume=2, block_devices=[
            {"source_type": "blank", "destination_type": "volume", "volume_size": 1,
             "delete_on_termination": True},
            {"source_type": "volume", "uuid": kept, "destination_type": "volume"}])
        found = self.mappings(uuid)
        self.assertEqual(["/dev/vda", "/dev/vdb", "/dev/vdc"],
                         sorted(one["device_name"] for one in found.values()))
        self.assertEqual(set(found), self.volumes(uuid))
        self.assertEqual([], [d for d in self.host.driver.disks(uuid) if d.role == "root"])
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual(set(found), self.volumes(uuid))
        self.control.server_delete(uuid)
        wait_until(lambda: self.cloud.show(uuid)["vm_state"] == states.DELETED)
        self.host.at_rest()
        self.assertEqual("available", self.status(kept))
        ended = [one["volume_id"] for one in found.values() if one["delete_on_termination"]]
        wait_until(lambda: not {v["id"] for v in self.control.volume_list()} & set(ended))
        self.assertEqual(set(), {v for v, guest in self.host.driver.connected_volumes()
                                 if guest == uuid})
        self.assert_clean()

    def test_what_it_boots_from_stays(self):
        uuid = self.cloud.boot("rooted", boot_from_volume=1)
        [root] = self.mappings(uuid)
        self.cloud.cast(uuid, "detach_volume", volume_id=root, attachment_id=None)
        self.assertEqual("root_volume",
                         self.ended(uuid, "detach_volume", rows.UNDONE).error["code"])
        self.assertEqual({root}, self.volumes(uuid))
        for ask, verb in ((lambda: self.control.server_rescue(uuid, image="tiny"), "rescue"),
                          (lambda: self.control.server_rebuild(uuid, image="tiny"), "rebuild"),
                          (lambda: self.control.server_shelve(uuid), "shelve")):
            try:
                ask()
            except Refused as error:  # the API may know it before
                self.assert_speaks(error)
                continue
            self.assert_speaks(self.ended(uuid, verb, rows.UNDONE).error)
            self.cloud.wait_for(uuid, states.ACTIVE)
        self.assertEqual({root}, self.volumes(uuid))
        self.assert_clean()

    def test_a_shelved_server_takes_its_volumes_along(self):
        # The fake's disks are JSON; what is uploaded as qcow2 is looked into elsewhere.
        self.patch(images, "_inspect", lambda path, image: None)
        uuid, volume = self.cloud.boot("shelved"), self.volume("along")
        self.attach(uuid, volume)
        self.cloud.set(shelved_offload_time=0)
        self.control.server_shelve(uuid)
        self.cloud.wait_for(uuid, states.SHELVED_OFFLOADED)
        self.host.at_rest()
        self.assertEqual(set(), {v for v, guest in self.host.driver.connected_volumes()
                                 if guest == uuid})
        self.control.server_unshelve(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.assertEqual({volume}, self.volumes(uuid))
        self.assert_clean()
