"""Flags and parameters of libvirt's migration call."""

from dataclasses import asdict, replace

import libvirt
import testtools

from compute.model.move import MovePlan
from compute.model.volume import VolumeSource
from virt.libvirt import orders
from virt.xml.domain import Domain

XML = """<domain type='qemu'><name>g</name><memory>1</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<metadata><m:instance xmlns:m='https://magnetar.dev/xmlns/1' generation='1' operation='a'/>
</metadata>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='{cache}'/>
<source file='/a/disk'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='/a/config'/><target dev='sda'/><readonly/></disk>
</devices></domain>"""
PLAN = MovePlan(uri="qemu+tls://b/system", generation=2, operation="b")


def flags(plan, cache="none"):
    text = XML.format(cache=cache)
    return orders.parameters(text, text, plan)[1]


class TestOrders(testtools.TestCase):
    def test_a_migration_always_takes_the_definition_along(self):
        for flag in (libvirt.VIR_MIGRATE_LIVE, libvirt.VIR_MIGRATE_PEER2PEER,
                     libvirt.VIR_MIGRATE_UNDEFINE_SOURCE, libvirt.VIR_MIGRATE_PERSIST_DEST):
            self.assertTrue(flags(PLAN) & flag)
        self.assertEqual(orders.ALWAYS, flags(PLAN))

    def test_each_wish_has_its_flag(self):
        for change, flag in (
            ({"tls": True}, libvirt.VIR_MIGRATE_TLS),
            ({"postcopy": True}, libvirt.VIR_MIGRATE_POSTCOPY),
            ({"auto_converge": True}, libvirt.VIR_MIGRATE_AUTO_CONVERGE),
            ({"channels": 4}, libvirt.VIR_MIGRATE_PARALLEL),
            ({"copy_disks": ("vda",)}, libvirt.VIR_MIGRATE_NON_SHARED_INC),
            ({"copy_disks": ("vda",), "incremental": False}, libvirt.VIR_MIGRATE_NON_SHARED_DISK),
        ):
            self.assertEqual(orders.ALWAYS | flag, flags(replace(PLAN, **change)), change)

    def test_libvirts_check_is_passed_over_only_for_shared_disks_without_cache(self):
        shared = replace(PLAN, rewrite={"shared": True})
        unsafe = libvirt.VIR_MIGRATE_UNSAFE
        self.assertTrue(flags(shared) & unsafe)
        self.assertTrue(flags(shared, "directsync") & unsafe)
        for plan, cache in (
            (shared, "writeback"), (PLAN, "none"), (replace(shared, copy_disks=("vda",)), "none"),
        ):
            self.assertFalse(flags(plan, cache) & unsafe)

    def test_parameters_name_what_the_plan_does(self):
        plan = replace(
            PLAN, migrate_uri="tcp://b", listen="10.0.0.2", copy_disks=("vda",), bandwidth=30,
            channels=2, rewrite={"disks": {"vda": "/b/disk"}},
        )  # fmt: skip
        text = XML.format(cache="none")
        values, _ = orders.parameters(text, text, plan)
        moved = Domain.parse(values.pop(libvirt.VIR_MIGRATE_PARAM_DEST_XML))
        self.assertEqual(["/b/disk", "/a/config"], [disk.source for disk in moved.devices.disks])
        self.assertEqual(2, moved.metadata.ownership.generation)
        kept = Domain.parse(values.pop(libvirt.VIR_MIGRATE_PARAM_PERSIST_XML))
        self.assertEqual("/b/disk", kept.devices.disks[0].source)
        self.assertEqual({
            "migrate_uri": "tcp://b", "listen_address": "10.0.0.2", "migrate_disks": ["vda"],
            "bandwidth": 30, "parallel.connections": 2,
        }, values)  # fmt: skip
        values, _ = orders.parameters(text, text, replace(plan, postcopy=True))
        self.assertEqual(30, values["bandwidth.postcopy"])

    def test_a_broken_post_copy_is_continued_with_the_same_transport(self):
        values, found = orders.resume_flags(replace(PLAN, tls=True, migrate_uri="tcp://b"))
        self.assertEqual({"migrate_uri": "tcp://b"}, values)
        self.assertEqual(
            orders.ALWAYS | libvirt.VIR_MIGRATE_TLS | libvirt.VIR_MIGRATE_POSTCOPY
            | libvirt.VIR_MIGRATE_POSTCOPY_RESUME, found)


class TestVolumes(testtools.TestCase):
    """A guest's volumes are where the destination reaches them, and nothing of them is copied."""

    TEXT = XML.format(cache="none").replace("</devices>", """<disk type='file' device='disk'>
<driver name='qemu' type='raw' cache='none'/><source file='/volumes/one'/><target dev='vdb'/>
<serial>one</serial><address type='pci' domain='0' bus='1' slot='0' function='0'/></disk>
</devices>""")

    def plan(self, **changes):
        there = asdict(VolumeSource("block", "/dev/dm-1", serial="one"))
        return replace(PLAN, rewrite={"volumes": {"one": there}, "shared": False}, **changes)

    def test_each_is_found_by_its_serial_number(self):
        values, _ = orders.parameters(self.TEXT, self.TEXT, self.plan(copy_disks=("vda",)))
        for name in (libvirt.VIR_MIGRATE_PARAM_DEST_XML, libvirt.VIR_MIGRATE_PARAM_PERSIST_XML):
            disks = {disk.target: disk for disk in Domain.parse(values[name]).devices.disks}
            self.assertEqual("/a/disk", disks["vda"].source)
            self.assertEqual(("block", "/dev/dm-1", None), (
                disks["vdb"].type, disks["vdb"].origin.device, disks["vdb"].source))
            self.assertIsNotNone(disks["vdb"].node.find("address"))
        self.assertEqual(["vda"], values[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS])

    def test_libvirts_doubts_about_shared_storage_do_not_hold_them_up(self):
        """Both hosts were given the volume by its service."""
        for cache, copies, unsafe in (("none", ("vda",), True), ("writeback", ("vda",), True),
                                      ("writeback", (), False)):
            text = self.TEXT.replace("cache='none'/>\n<source file='/a/disk'",
                                     f"cache='{cache}'/>\n<source file='/a/disk'")
            found = orders.parameters(text, text, self.plan(copy_disks=copies))[1]
            self.assertEqual(unsafe, bool(found & libvirt.VIR_MIGRATE_UNSAFE), (cache, copies))
