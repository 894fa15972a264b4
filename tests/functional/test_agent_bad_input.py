"""What people and other programs get wrong: each is told clearly, nothing changes, nothing is lost.

Images are inspected by the real store of disks; the rest is on the fake driver.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import fixtures
import testtools

from compute.errors import MagnetarError, Refused
from compute.model import states
from control.servers import C
from db.control import instances
from db.journal import rows
from tests.functional.agent_support import Gate, Once, SharedTest
from virt.fake import FakeDriver, hooked
from virt.storage.files import disk_full
from virt.storage.store import Store


def qemu_img(*words: str) -> None:
    """Make an image."""
    subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.DEVNULL)


class StoringDriver(FakeDriver):
    """The fake hypervisor with the real store of images and disks."""

    store: Store

    @hooked
    def cached_image(self, image):
        return self.store.cached_image(image)

    @hooked
    def fetch_image(self, image, source, progress, cancel):
        return self.store.fetch_image(image, source, progress, cancel)

    @hooked
    def check_image(self, guest, base):
        self.store.check_image(guest, base)

    @hooked
    def create_disks(self, guest, base, secrets):
        return self.store.create_disks(guest, base, secrets)

    @hooked
    def disks(self, uuid):
        return self.store.disks(uuid)

    @hooked
    def delete_disks(self, uuid):
        self.store.delete_disks(uuid)

    @hooked
    def sweep(self, in_use, max_age):
        return self.store.sweep(in_use, max_age)


class BadInputTest(SharedTest):
    """Asserts that a refused or failed request left nothing behind."""

    def refused(self, code: str, function, *args, **kwargs) -> MagnetarError:
        """It is refused with this code, in three sentences."""
        before = len(self.host.operations())
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, str(error))
        self.assertIsInstance(error, Refused)
        self.assert_speaks(error)
        self.assertEqual(before, len(self.host.operations()))
        self.assert_clean()
        return error

    def fails(self, code: str, name: str = "bad", **kwargs) -> dict:
        """The build ends in ERROR, undone, with this code; returns the operation's error."""
        uuid = self.control.server_create(name, **{"networks": "none", **kwargs})["id"]
        shown = self.cloud.wait_for(uuid, states.ERROR)
        row = self.assert_ended(rows.UNDONE, uuid, "spawn")
        self.assertEqual(code, row.error["code"], row.error)
        self.assert_speaks(row.error)
        with self.control.store.begin() as connection:
            faults = instances.faults(connection, [uuid])
        self.assertIn(row.error["what"], faults[0]["details"])
        self.assertIsNone(shown["host"])
        self.assert_nothing_of(uuid)
        return row.error

    def assert_nothing_of(self, uuid: str) -> None:
        self.assertIsNone(self.host.power(uuid))
        self.assertEqual([], self.host.agent.journal.claims(guest=uuid))
        self.assertFalse((self.host.root / "instances" / uuid).exists())
        with self.control.store.begin() as connection:
            [row] = instances.query(connection, C.uuid == uuid, extra=("allocation_node",))
        self.assertIsNone(row["allocation_node"])
        parts = [p for p in (self.host.root / "instances" / "_base").rglob("*") if "part" in p.name]
        self.assertEqual([], parts)
        self.assert_clean()


@testtools.skipUnless(shutil.which("qemu-img"), "qemu-img is not installed")
class ImageTest(BadInputTest):
    """Images are hostile input."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        host = cls.shared.host
        root = str(host.root / "instances")
        cls.shared.set(disk__instances_path=root)
        host.driver_class = StoringDriver
        StoringDriver.store = Store(cls.shared.conf.conf)
        host.restart()
        cls.files = pathlib.Path(cls.shared.root) / "files"
        cls.files.mkdir()

    def image(self, name: str, disk_format: str, **kwargs) -> str:
        """Upload a file of this name; returns the image's id."""
        path = str(self.files / name)
        return self.control.image_create(self.id().rpartition(".")[2], path,
                                         disk_format=disk_format, **kwargs)["id"]

    def hostile(self, name: str, disk_format: str) -> str:
        """The id of an image that no upload lets in, as another image service may have it."""
        error = self.refused("image_unacceptable", self.image, name, disk_format)
        self.assertIn("Nothing of it was stored", error.now)
        with fixtures.MonkeyPatch("compute.services.images._inspect", lambda path, image: None):
            return self.image(name, disk_format)

    def test_a_good_one_for_comparison(self):
        qemu_img("create", "-q", "-f", "qcow2", str(self.files / "good"), "1M")
        uuid = self.control.server_create("good", self.image("good", "qcow2"), "small",
                                          networks="none")["id"]
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_malformed(self):
        (self.files / "junk").write_bytes(b"this is no image\n" * 100)
        error = self.fails("image_unacceptable", image=self.hostile("junk", "qcow2"),
                           flavor="small")
        self.assertIn("qcow2", error["what"])

    def test_qcow2_said_to_be_raw(self):
        qemu_img("create", "-q", "-f", "qcow2", str(self.files / "liar"), "1M")
        error = self.fails("image_unacceptable", image=self.hostile("liar", "raw"), flavor="small")
        self.assertIn("qcow2", error["what"])

    def test_a_backing_file(self):
        base = str(self.files / "secret")
        qemu_img("create", "-q", "-f", "raw", base, "1M")
        qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(self.files / "child"))
        error = self.fails("image_unacceptable", image=self.hostile("child", "qcow2"),
                           flavor="small")
        self.assertIn("backing file", error["what"])

    def test_an_external_data_file(self):
        data = str(self.files / "data")
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on",
                 str(self.files / "outside"), "1M")
        error = self.fails("image_unacceptable", image=self.hostile("outside", "qcow2"),
                           flavor="small")
        self.assertIn("data file", error["what"])

    def test_larger_inside_than_the_flavors_disk(self):
        qemu_img("create", "-q", "-f", "qcow2", str(self.files / "large"), "2G")
        error = self.fails("flavor_disk_too_small", image=self.image("large", "qcow2"),
                           flavor="small")
        self.assertIn("small", error["what"])

    def test_one_that_is_gone_when_it_is_needed(self):
        qemu_img("create", "-q", "-f", "raw", str(self.files / "going"), "1M")
        image = self.image("going", "raw")
        self.host.hook = gate = Gate("fetch_image")
        uuid = self.control.server_create("going", image, "small", networks="none")["id"]
        gate.wait()
        self.control.image_delete(image)
        gate.open = True
        self.cloud.wait_for(uuid, states.ERROR)
        row = self.assert_ended(rows.UNDONE, uuid, "spawn")
        self.assertEqual("image_not_found", row.error["code"])
        self.assert_speaks(row.error)
        self.assert_nothing_of(uuid)

    def test_larger_than_the_flavors_disk_by_its_own_words(self):
        qemu_img("create", "-q", "-f", "raw", str(self.files / "asks"), "1M")
        image = self.image("asks", "raw", min_disk=2)
        self.refused("flavor_too_small", self.control.server_create, "asks", image, "small")


class RequestTest(BadInputTest):
    """What a tenant gets wrong."""

    def test_unknown_image_flavor_and_network(self):
        create = self.control.server_create
        self.refused("image_not_found", create, "x", "no-such-image", "small")
        self.refused("flavor_not_found", create, "x", "tiny", "no-such-flavor")
        self.refused("network_not_found", create, "x", "tiny", "small", networks=["nowhere"])
        self.assertEqual([], self.control.server_list(name="x"))

    def test_a_flavor_that_no_host_can_carry(self):
        self.control.flavor_create("huge", vcpus=1, ram=10**6, disk=1)
        error = self.refused("no_valid_host", self.control.server_create, "x", "tiny", "huge",
                             networks="none")
        self.assertIn("memory", error.what)
        self.assertEqual([], self.control.server_list(name="x"))

    def test_the_same_request_twice_makes_one_guest(self):
        made = {self.cloud.create("same", request_id="req-same")["id"] for _ in range(3)}
        [uuid] = made
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.cloud.create("same", request_id="req-same")
        self.host.at_rest()
        self.assertEqual(1, len(self.host.operations(uuid)))
        self.assertEqual([uuid], [row["id"] for row in self.control.server_list(name="same")])
        self.assert_clean()

    def test_verbs_on_what_is_not_there(self):
        for verb in (self.control.server_show, self.control.server_start,
                     self.control.server_stop, self.control.server_delete,
                     self.control.server_reboot, self.control.console_log):
            self.refused("server_not_found", verb, "no-such-server")

    def test_verbs_in_the_wrong_state(self):
        uuid = self.cloud.boot("state")
        self.refused("bad_state", self.control.server_start, uuid)
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.refused("bad_state", self.control.server_stop, uuid)
        self.refused("bad_state", self.control.server_reboot, uuid)

    def test_a_network_that_is_not_on_the_host(self):
        self.cloud.network()
        (self.host.driver.networks / "net").rename(self.host.driver.root / "aside")
        try:
            error = self.fails("network_missing", image="tiny", flavor="small", networks=["net"])
        finally:
            (self.host.driver.root / "aside").rename(self.host.driver.networks / "net")
        self.assertIn("Network net is not on this host", error["what"])
        self.assertEqual(0, self.control.network_show("net")["ports"])

    def test_a_full_disk(self):
        self.host.hook = Once("create_disks", lambda: disk_full(
            "Writing the root disk did not work: the disk is full."), times=1000)
        error = self.fails("disk_full", image="tiny", flavor="small")
        self.assertIn("the disk is full", error["what"])

    def test_a_disk_that_has_room_again_in_time(self):
        self.host.hook = Once("create_disks", lambda: disk_full("The disk is full."), times=2)
        self.cloud.boot("room-again")
        self.assert_clean()

    def test_an_internal_error_of_the_driver_is_told_and_undone(self):
        self.host.hook = Once("define", lambda: KeyError("surprise"))
        uuid = self.cloud.create("surprise")["id"]
        shown = self.cloud.wait_for(uuid, states.ERROR)
        row = self.assert_ended(rows.UNDONE, uuid, "spawn")
        self.assertEqual("internal", row.error["code"])
        self.assertIn("surprise", row.error["what"])
        self.assertIn("Traceback", self.log.output)
        self.assertIsNotNone(shown["fault"])
        self.assert_nothing_of(uuid)

    def test_nothing_is_left_of_the_directory_of_a_failed_build(self):
        self.host.hook = Once("create_disks", lambda: OSError(28, "No space left"), when="after")
        uuid = self.cloud.create("half")["id"]
        self.cloud.wait_for(uuid, states.ERROR)
        self.host.at_rest()
        self.assertNotIn(uuid, os.listdir(self.host.driver.root))
        self.assert_nothing_of(uuid)


