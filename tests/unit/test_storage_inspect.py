import hashlib
import os
import struct
from dataclasses import replace

from compute.errors import Failed
from tests.unit.storage_support import StorageTest, nothing, qemu_img
from virt.storage import inspect


class InspectTest(StorageTest):
    """Images as an attacker or a mistake would make them; each goes through the whole fetch."""

    def assertRefused(self, image, words):
        error = self.assertFails(Failed, "image_unacceptable", self.fetch, image)
        self.assertIn(image.id, error.what)
        self.assertIn(words, error.what)
        self.assertIsNone(self.store.cached_image(image))
        self.assertEqual([], self.names("_base"))
        return error

    def converted(self, format):
        path = os.path.join(self.dir, "image." + format)
        qemu_img("convert", "-f", "qcow2", "-O", format, self.qcow2(), path)
        return path

    def patched(self, offset, data):
        path = self.qcow2()
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)
        return path

    def test_qcow2(self):
        base = self.fetch(self.source.add(self.qcow2(size="64M")))
        self.assertEqual(("qcow2", 64 * 2**20), (base.format, base.virtual_size))

    def test_qcow2_version_2_and_compressed(self):
        path = os.path.join(self.dir, "old.qcow2")
        qemu_img("convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", "compat=0.10",
                 self.qcow2(), path)
        self.assertEqual("qcow2", self.fetch(self.source.add(path)).format)

    def test_raw(self):
        base = self.fetch(self.source.add(self.raw(size=1024 * 1024 + 5), disk_format="raw"))
        self.assertEqual(("raw", 1024 * 1024 + 512), (base.format, base.virtual_size))

    def test_raw_with_a_partition_table(self):
        path = self.raw()
        with open(path, "r+b") as file:
            file.seek(446)
            file.write(struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 0, 0, 2048, 4096))
            file.seek(510)
            file.write(b"\x55\xaa")
        self.assertEqual("raw", self.fetch(self.source.add(path, disk_format="raw")).format)

    def test_raw_boot_sector_without_partitions(self):
        path = self.raw()
        with open(path, "r+b") as file:
            file.seek(510)
            file.write(b"\x55\xaa")
        self.assertEqual("raw", self.fetch(self.source.add(path, disk_format="raw")).format)

    def test_declared_raw_but_another_format(self):
        image = self.source.add(self.qcow2(), disk_format="raw")
        self.assertRefused(image, "declared as raw but looks like qcow2")
        for format in ("vmdk", "vdi", "vhdx", "qed", "vpc"):
            image = self.source.add(self.converted(format), disk_format="raw")
            self.assertRefused(image, "declared as raw but looks like")

    def test_declared_raw_but_an_iso(self):
        path = self.raw()
        with open(path, "r+b") as file:
            file.seek(0x8000)
            file.write(b"\x01CD001\x01")
        self.assertRefused(self.source.add(path, disk_format="raw"), "looks like iso")

    def test_declared_qcow2_but_raw(self):
        self.assertRefused(self.source.add(self.raw()), "looks like no known format")

    def test_declared_qcow2_but_vmdk(self):
        self.assertRefused(self.source.add(self.converted("vmdk")), "looks like vmdk")

    def test_backing_file(self):
        base = self.qcow2("base.qcow2")
        path = self.qcow2("image.qcow2", "64M", "-b", base, "-F", "qcow2")
        self.assertRefused(self.source.add(path), "it has a backing file")

    def test_backing_file_of_the_host(self):
        path = self.qcow2("image.qcow2", "64M", "-u", "-b", "/etc/passwd", "-F", "raw")
        self.assertRefused(self.source.add(path), "it has a backing file")

    def test_backing_file_in_version_2(self):
        path = self.qcow2("image.qcow2", "64M", "-u", "-b", "/etc/passwd", "-F", "raw",
                          "-o", "compat=0.10")
        self.assertRefused(self.source.add(path), "it has a backing file")

    def test_external_data_file(self):
        data = os.path.join(self.dir, "data")
        path = self.qcow2("image.qcow2", "64M", "-o", f"data_file={data}")
        self.assertRefused(self.source.add(path), "it has an external data file")

    def test_unknown_features(self):
        self.assertRefused(self.source.add(self.patched(72, b"\x40")), "features")

    def test_unknown_version(self):
        self.assertRefused(self.source.add(self.patched(4, struct.pack(">I", 9))), "features")

    def test_marked_as_corrupt(self):
        self.assertRefused(self.source.add(self.patched(79, b"\x02")), "corrupt")

    def test_encrypted(self):
        secret = self.file("secret", b"secret")
        path = os.path.join(self.dir, "image.qcow2")
        # Not LUKS: to make that, qemu-img measures the CPU, which fails on a busy machine.
        qemu_img("create", "-q", "-f", "qcow2", "--object", f"secret,id=s,file={secret}",
                 "-o", "encrypt.format=aes,encrypt.key-secret=s", path, "64M")
        self.assertRefused(self.source.add(path), "encrypted")

    def test_header_that_qemu_img_cannot_read(self):
        for offset, data in ((20, struct.pack(">I", 63)), (36, struct.pack(">I", 2**31 - 1))):
            self.assertRefused(self.source.add(self.patched(offset, data)), "cannot read it")

    def test_damaged_tables(self):
        path = self.patched(40, struct.pack(">Q", 2**40))  # the L1 table is beyond the end
        self.assertRefused(self.source.add(path), "qemu-img check finds")

    def test_lost_clusters_do_no_harm(self):
        path = self.qcow2()
        with open(path, "r+b") as file:  # the only L1 entry: its table and cluster are lost
            file.seek(struct.unpack_from(">Q", file.read(48), 40)[0])
            file.write(bytes(8))
        self.assertEqual("qcow2", self.fetch(self.source.add(path)).format)

    def test_size_out_of_the_world(self):
        for size in (0, 2**64 - 1):
            path = self.patched(24, struct.pack(">Q", size))
            self.assertRefused(self.source.add(path), "tells a size of")

    def test_cut_off(self):
        path = self.qcow2()
        for size in (10, 300, 70_000):
            os.truncate(path, size)
            self.assertRefused(self.source.add(path), "")

    def test_empty(self):
        for format in ("raw", "qcow2"):
            self.assertRefused(self.source.add(self.file("e"), disk_format=format), "no bytes")

    def test_other_size_than_declared(self):
        image = self.source.add(self.raw(), disk_format="raw", size=77)
        self.assertRefused(image, "instead of 77")

    def test_formats_that_are_refused_without_a_download(self):
        for fields, words in (
            ({"disk_format": "vmdk"}, "disk_format is vmdk"),
            ({"disk_format": ""}, "not set"),
            ({"container_format": "ova"}, "container_format is ova"),
        ):
            self.assertRefused(self.source.add(self.raw(), **fields), words)
        self.assertEqual([], self.source.downloads)

    def test_hash(self):
        path = self.raw()
        with open(path, "rb") as file:
            right = hashlib.sha512(file.read()).hexdigest()
        image = self.source.add(
            path, disk_format="raw", hash_algo="sha512", hash_value="0" * 128
        )
        self.assertRefused(image, "sha512 is not the one")
        self.source.images[image.id] = (replace(image, hash_value=right.upper()), path)
        self.assertEqual("raw", self.fetch(replace(image, hash_value="")).format)

    def test_hash_of_an_unknown_kind(self):
        image = self.source.add(self.qcow2(), hash_algo="crc7", hash_value="1")
        self.assertRefused(image, "crc7")

    def test_hashing_can_be_cancelled(self):
        def stop():
            raise Failed("told to stop", code="aborted")

        path = self.raw()
        image = self.source.add(path, hash_algo="md5", hash_value="1")
        error = self.assertRaises(Failed, inspect.verify_hash, path, image, stop)
        self.assertEqual("aborted", error.code)
        self.assertRaises(Failed, inspect.verify_hash, path, image, nothing)
