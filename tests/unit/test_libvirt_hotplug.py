"""Devices that keep a guest from moving, and which node is which device."""

import testtools
from lxml import etree

from virt.libvirt import hotplug
from virt.xml.domain import Domain

DEVICES = """<domain type='qemu'><devices>
<disk type='file'><source file='/a'/><target dev='vda'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/></interface>
<interface type='hostdev'><mac address='52:54:00:00:00:02'/></interface>
<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>
<hostdev mode='subsystem' type='mdev'><source><address uuid='u'/></source></hostdev>
<shmem name='plain' role='peer'><model type='ivshmem-plain'/></shmem>
<shmem name='ours' role='master'><model type='ivshmem-plain'/></shmem>
<shmem name='bell' role='master'><model type='ivshmem-doorbell'/></shmem>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/s'/>
<target dir='data'/></filesystem>
<disk type='vhostuser'><source type='unix' path='/v'/><target dev='vdb'/></disk>
<redirdev bus='usb' type='tcp'/>
</devices></domain>"""
PCI = """<hostdev mode='subsystem' type='pci' managed='yes'>{extra}
<source{index}><address domain='0x0000' bus='0x06' slot='{slot}' function='0x0'/></source>
</hostdev>"""


def pci(slot="0x01", extra="", index=""):
    return etree.fromstring(PCI.format(slot=slot, extra=extra, index=index))


class TestDevices(testtools.TestCase):
    def test_what_cannot_move_is_named(self):
        found = list(hotplug.immovable(Domain.parse(DEVICES)))
        self.assertEqual([
            "network interface of type hostdev", "network interface of type vdpa",
            "host device (mdev)", "shared memory plain", "shared memory bell",
            "shared directory data", "vhost-user disk", "redirected USB device",
        ], [device.words for device in found])  # fmt: skip
        for device in found:
            self.assertIsNotNone(etree.fromstring(device.text))

    def test_a_device_is_known_again_by_what_it_is(self):
        plugged = pci(extra="<alias name='hostdev0'/><address type='pci' bus='0x07'/>"
                            "<driver name='vfio'/>", index=" index='3'")  # fmt: skip
        self.assertTrue(hotplug.same(pci(), plugged))
        self.assertFalse(hotplug.same(pci(), pci(slot="0x02")))
