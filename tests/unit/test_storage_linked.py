"""Root disks in LVM and RBD. Neither can run here: the commands are answered as the real ones do,
down to what they print and the code that they end with."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import fixtures

from compute.errors import Failed, Retryable
from compute.model.guest import CachedImage, Flavor
from tests.golden.cases import GUEST, ROOT
from tests.golden.test_domains import build
from tests.unit.storage_support import GIB, StorageTest, make_guest, nothing
from virt.libvirt.blockcopy import BlockCopy
from virt.storage import command


class Host:
    """What commands do to volumes and images: name -> size. ``broken`` names one that fails."""

    def __init__(self):
        self.ran, self.volumes, self.broken = [], {}, ""
        self.images, self.parents, self.protected = {}, {}, set()

    def run(self, argv, timeout, limits=(), accept=(0,), cancel=nothing):
        self.ran.append(" ".join(argv))
        if self.broken and self.broken in self.ran[-1]:
            code, out, complaint = 1, "", f"{argv[0]}: broken"
        else:
            code, out, complaint = getattr(self, argv[0].replace("-", "_"))(list(argv[1:]))
        if code not in accept:
            raise Failed(f"{argv[0]} ended with code {code}: {complaint}", code="command_failed")
        return out

    # -- LVM --
    def lvs(self, argv):
        return 0, "".join(f"  {name}\n" for name in self.volumes), ""

    def lvcreate(self, argv):
        name, size = argv[argv.index("--name") + 1], argv[argv.index("--size") + 1]
        if name in self.volumes:
            return 5, "", f'Logical Volume "{name}" already exists in volume group "{argv[-1]}"'
        self.volumes[name] = int(size.removesuffix("b"))
        return 0, f'  Logical volume "{name}" created.\n', ""

    def lvremove(self, argv):
        name = argv[-1].partition("/")[2]
        if self.volumes.pop(name, None) is None:
            return 5, "", f'Failed to find logical volume "{argv[-1]}"'
        return 0, f'  Logical volume "{name}" successfully removed\n', ""

    def blkdiscard(self, argv):
        return 0, "", ""

    def qemu_img(self, argv):
        source, target = argv[-2:]
        if target.startswith("rbd:"):
            self.images[target.removeprefix("rbd:").partition(":")[0]] = 1
        elif not target.startswith("/dev/"):
            with open(target, "wb") as file:
                file.write(source.encode())
        return 0, "", ""

    # -- RBD --
    def rbd(self, argv):
        del argv[:2]  # --conf
        if argv[0] == "--id":
            del argv[:2]
        argv = [word for word in argv if word not in ("--no-progress", "--format", "json")]
        if argv[0] == "snap":
            return getattr(self, f"snap_{argv[1]}")(argv[-1])
        return getattr(self, f"rbd_{argv[0]}")(*argv[1:])

    def gone(self, name):
        return 2, "", f"rbd: error opening image {name}: (2) No such file or directory"

    def rbd_info(self, name):
        if name not in self.images:
            return self.gone(name)
        told = {"name": name}
        if parent := self.parents.get(name):
            pool, image = parent.partition("@")[0].split("/")
            told["parent"] = {"pool": pool, "image": image, "snapshot": "snap"}
        return 0, json.dumps(told), ""

    def rbd_clone(self, snapshot, name):
        if snapshot not in self.protected:
            return 22, "", "rbd: clone error: (22) Invalid argument"
        self.images[name], self.parents[name] = 1, snapshot
        return 0, "", ""

    def rbd_resize(self, size_option, size, name):
        self.images[name] = size
        return 0, "", ""

    def rbd_children(self, snapshot):
        return 0, json.dumps([name for name, of in self.parents.items() if of == snapshot]), ""

    def rbd_mv(self, name, new):
        if new in self.images:
            return 17, "", "rbd: rename error: (17) File exists"
        for kept in list(self.images):
            if kept.partition("@")[0] == name:
                moved = kept.replace(name, new)
                self.images[moved] = self.images.pop(kept)
                if kept in self.protected:
                    self.protected = self.protected - {kept} | {moved}
        return 0, "", ""

    def rbd_rm(self, name):
        if name not in self.images:
            return self.gone(name)
        if any(kept.startswith(name + "@") for kept in self.images):
            return 39, "", "rbd: image has snapshots with linked clones"
        del self.images[name]
        self.parents.pop(name, None)
        return 0, "", ""

    def rbd_flatten(self, name):
        self.parents.pop(name, None)
        return 0, "", ""

    def rbd_export(self, name, path):
        with open(path, "wb") as file:
            file.write(name.encode())
        return 0, "", ""

    def snap_create(self, name):
        self.images[name] = 1
        return 0, "", ""

    def snap_protect(self, name):
        self.protected.add(name)
        return 0, "", ""

    def snap_unprotect(self, name):
        if name in self.parents.values():
            return 16, "", "rbd: unprotecting snap failed: (16) Device or resource busy"
        self.protected.discard(name)
        return 0, "", ""

    def snap_rm(self, name):
        if name in self.protected:
            return 16, "", "rbd: snapshot 'snap' is protected from removal."
        return (0, "", "") if self.images.pop(name, None) else self.gone(name)


class LinkedCase(StorageTest):
    kind = ""

    def setUp(self):
        super().setUp()
        self.host = Host()
        self.useFixture(fixtures.MonkeyPatch("virt.storage.command.run", self.host.run))
        self.store = self.make_store(
            images_type=self.kind, images_volume_group="guests", images_rbd_pool="vms",
            images_rbd_ceph_conf="/etc/ceph/our.conf", rbd_user="nova")  # fmt: skip
        path = os.path.join(self.path, "_base", "an-image")
        os.makedirs(os.path.dirname(path))
        with open(path, "wb"):
            pass
        self.base = CachedImage("an-image", path, "qcow2", 1 << 20)
        self.guest = make_guest(flavor=Flavor("small", 1, 128, root_gb=2))

    def create(self, guest=None):
        return self.store.create_disks(guest or self.guest, self.base, {})

    def entries(self):
        return sorted(os.listdir(os.path.join(self.path, self.guest.uuid)))


class LVMTest(LinkedCase):
    kind = "lvm"

    def test_made_once_recorded_and_removed(self):
        [disk] = self.create()
        [name] = self.host.volumes
        self.assertRegex(name, rf"^{self.guest.uuid}_disk\.[0-9a-f]{{8}}$")
        self.assertEqual((f"/dev/guests/{name}", "raw", 2 * GIB),
                         (disk.link, disk.format, disk.size))  # fmt: skip
        self.assertEqual(2 * GIB, self.host.volumes[name])
        self.assertEqual(disk.link, os.readlink(disk.path))
        self.assertEqual(
            ["lvs --noheadings --options lv_name guests",
             f"lvcreate --yes --size {2 * GIB}b --name {name} guests",
             f"blkdiscard --zeroout {disk.link}",
             f"qemu-img convert -q -n -f qcow2 -O raw {self.base.path} {disk.link}"],
            self.host.ran)  # fmt: skip
        self.assertEqual((disk,), self.create())
        self.assertEqual((disk,), self.store.disks(self.guest.uuid))
        for _ in range(2):
            self.store.delete_disks(self.guest.uuid)
        self.assertEqual({}, self.host.volumes)
        self.assertEqual((), self.store.disks(self.guest.uuid))

    def test_an_attempt_that_was_cut_off_leaves_nothing(self):
        for broken in ("lvcreate", "blkdiscard", "convert"):
            self.host.broken = broken
            self.assertRaises(Failed, self.create)
        self.host.broken = ""
        self.assertEqual(["disk.making"], self.entries())
        self.create()
        self.assertEqual(1, len(self.host.volumes))
        self.assertEqual(["disk", "disks.json"], self.entries())

    def test_a_half_made_one_is_removed_with_its_directory(self):
        self.host.broken = "convert"
        self.assertRaises(Failed, self.create)
        self.assertEqual(1, len(self.host.volumes))
        self.store.delete_disks(self.guest.uuid)
        self.assertEqual({}, self.host.volumes)

    def test_set_aside_and_in_quarantine_it_is_still_its_own(self):
        [former] = self.create()
        self.store.set_aside_disks(self.guest.uuid)
        [present] = self.create()
        self.assertEqual(2, len(self.host.volumes))
        self.store.delete_aside_disks(self.guest.uuid)
        self.assertEqual([present.link.rpartition("/")[2]], list(self.host.volumes))
        self.assertNotEqual(former.link, present.link)
        self.store.quarantine_disks(self.guest.uuid)
        self.assertEqual(1, len(self.host.volumes))
        self.create()
        self.assertEqual(2, len(self.host.volumes))

    def test_what_is_not_removed_is_told_and_tried_again(self):
        self.create()
        self.host.broken = "lvremove"
        self.assertFails(Retryable, "delete_failed", self.store.delete_disks, self.guest.uuid)
        self.host.broken = ""
        self.store.delete_disks(self.guest.uuid)
        self.assertEqual({}, self.host.volumes)

    def test_a_link_that_is_not_ours_is_never_followed(self):
        self.create()
        os.symlink("/dev/guests/database", os.path.join(self.path, self.guest.uuid, "other"))
        self.host.volumes["database"] = 1
        self.assertFails(Retryable, "delete_failed", self.store.delete_disks, self.guest.uuid)
        self.assertIn("database", self.host.volumes)

    def test_images_volume_group_is_needed(self):
        self.store = self.make_store(images_type="lvm")
        error = self.assertFails(Failed, "storage_failed", self.create)
        self.assertIn("images_volume_group", error.what)

    def test_what_only_files_can_do_is_refused(self):
        [disk] = self.create()
        for call in (
            lambda: self.store.check_resize(self.guest, replace(self.guest.flavor, root_gb=9)),
            lambda: self.store.outgoing(self.guest.uuid),
            lambda: BlockCopy(None, _Domains(), self.store.copies).begin(self.guest.uuid),
        ):
            self.assertFails(Failed, "unsupported", call)
        self.store.set_aside_disks(self.guest.uuid)
        shutil.copytree(self.path, self.dir + "/there", symlinks=True)
        other = self.make_store(instances_path=self.dir + "/there")
        self.assertFails(Failed, "unsupported", other.copy_disks, self.guest, None, self.base,
                         nothing, nothing)  # fmt: skip

    def test_a_copy_while_the_guest_is_off(self):
        [disk] = self.create()
        self.store.copies.make(self.guest.uuid, nothing, nothing)
        copy = self.store.copies.whole(self.guest.uuid)
        self.assertEqual(("raw", ""), (copy.format, copy.link))
        with open(copy.path) as file:
            self.assertEqual(disk.link, file.read())
        self.store.copies.detach_base(self.guest.uuid)


class _Domains:
    def required(self, uuid):
        return None


class RBDTest(LinkedCase):
    kind = "rbd"

    def base_of(self):
        return {name for name in self.host.images if "/magnetar-base-" in name}

    def test_a_clone_of_the_images_one_snapshot(self):
        [disk] = self.create()
        self.assertRegex(disk.link, rf"^rbd:vms/{self.guest.uuid}_disk\.[0-9a-f]{{8}}$")
        image = disk.link.removeprefix("rbd:")
        self.assertEqual("2048M", self.host.images[image])
        self.assertEqual(2, len(self.base_of()))  # the image and its snapshot
        self.assertEqual(self.host.parents[image], *self.host.protected)
        self.assertTrue(all("--conf /etc/ceph/our.conf --id nova" in line
                            for line in self.host.ran if line.startswith("rbd ")))  # fmt: skip
        self.assertIn(":id=nova:conf=/etc/ceph/our.conf",
                      next(line for line in self.host.ran if line.startswith("qemu-img")))
        self.assertEqual((disk,), self.store.disks(self.guest.uuid))

    def test_the_last_clone_takes_the_base_along(self):
        other = make_guest(flavor=self.guest.flavor)
        self.create()
        self.create(other)
        imports = [line for line in self.host.ran if line.startswith("qemu-img convert")]
        self.assertEqual(1, len(imports))
        self.store.delete_disks(self.guest.uuid)
        self.assertEqual(2, len(self.base_of()))
        self.store.delete_disks(other.uuid)
        self.assertEqual(({}, set()), (self.host.images, self.host.protected))

    def test_two_hosts_make_the_base_at_once(self):
        real = self.host.rbd_mv

        def race(name, new):
            for kept in (new, f"{new}@snap"):
                self.host.images.setdefault(kept, 1)
            self.host.protected.add(f"{new}@snap")
            return real(name, new)

        self.host.rbd_mv = race
        self.create()
        self.assertEqual(2, len(self.base_of()))

    def test_a_base_that_went_in_this_moment(self):
        self.host.snap_protect = lambda name: (0, "", "")
        self.assertFails(Retryable, "image_not_cached", self.create)

    def test_flattened_it_needs_its_base_no_more(self):
        [disk] = self.create()
        self.store.copies.detach_base(self.guest.uuid)
        self.assertEqual({}, self.host.parents)

    def test_a_copy_is_of_a_snapshot_that_goes_again(self):
        [disk] = self.create()
        self.store.copies.make(self.guest.uuid, nothing, nothing)
        with open(self.store.copies.whole(self.guest.uuid).path) as file:
            self.assertEqual(disk.link.removeprefix("rbd:") + "@copy", file.read())
        self.assertFalse([name for name in self.host.images if name.endswith("@copy")])
        self.host.broken = "export"
        self.assertRaises(Failed, self.store.copies.make, self.guest.uuid, nothing, nothing)
        self.assertFalse([name for name in self.host.images if name.endswith("@copy")])


class XMLTest(LinkedCase):
    kind = "lvm"

    def test_what_qemu_opens(self):
        for link, options, wanted in (
            ("/dev/guests/x", {}, ("block", "/dev/guests/x", None, "native", None)),
            ("rbd:vms/x", {"rbd_user": "nova", "rbd_secret_uuid": "0ff1ce00-0000"},
             ("network", None, "vms/x", None, "0ff1ce00-0000")),
            ("rbd:vms/x", {"images_rbd_ceph_conf": "/c"}, ("network", None, "vms/x", None, None)),
        ):  # fmt: skip
            drive = replace(ROOT, format="raw", link=link)
            [made] = build((GUEST, [drive], [], options, "qemu", "none")).devices.disks
            origin = made.origin
            self.assertEqual(wanted, (made.type, origin.device, origin.name, made.io,
                                      origin.secret))  # fmt: skip
            self.assertIsNone(made.source)

    def test_qemu_img_fills_a_device_that_exists(self):
        command.QemuImg(1, 1, 1).fill("/base", "qcow2", "/dev/guests/x", 1)
        self.assertEqual("qemu-img convert -q -n -f qcow2 -O raw /base /dev/guests/x",
                         self.host.ran[-1])  # fmt: skip
