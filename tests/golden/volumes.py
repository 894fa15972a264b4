"""The volumes whose disks are kept as golden files."""

from compute.model.volume import Volume, VolumeSource
from virt.libvirt import secrets, volumes
from virt.volumes.connection import LIMITS

ID = "c0ffee00-0000-4000-8000-000000000001"
SECRET, LUKS = "5ec0e700-0000-4000-8000-000000000001", "1cc50000-0000-4000-8000-000000000001"
PATH = "/var/lib/magnetar/volumes/" + ID
DATA = Volume(ID)
ISCSI = VolumeSource(
    "network", "iqn.2026-11.org.example:one/1", protocol="iscsi", hosts=(("192.0.2.1", 3260),),
    auth_user="user", secret=SECRET, serial=ID, initiator="iqn.2008-11.org.linux-kvm:host",
)  # fmt: skip

# name -> volume, source
DISKS = {
    "file": (Volume(ID, boot_index=0, target="vda"),
             VolumeSource("file", PATH, "qcow2", serial=ID)),
    "read-only-cdrom": (Volume(ID, device="cdrom", bus="sata", target="sda"),
                        VolumeSource("file", PATH, serial=ID, readonly=True)),
    "block-for-several-guests": (Volume(ID, multiattach=True, bus="scsi", target="sdb"),
                                 VolumeSource("block", "/dev/dm-3", cache="writeback", serial=ID)),
    "nbd": (DATA, VolumeSource("network", "export", protocol="nbd", serial=ID,
                               hosts=(("127.0.0.1", 10809),))),
    "iscsi-with-chap": (DATA, ISCSI),
    "rbd-with-encryption": (DATA, VolumeSource(
        "network", "volumes/volume-" + ID, protocol="rbd", auth_user="cinder", secret=SECRET,
        hosts=(("192.0.2.1", 6789), ("2001:db8::1", 6789)), luks_secret=LUKS, serial=ID)),
    "encrypted-file": (DATA, VolumeSource("file", PATH, luks_secret=LUKS, serial=ID)),
    "limited": (DATA, VolumeSource("file", PATH, discard=False, serial=ID, iotune={
        name: 1000 + number for number, name in enumerate(LIMITS)
        if not name.startswith("total")})),
    "limited-in-all": (DATA, VolumeSource("file", PATH, serial=ID, iotune={
        name: 2000 + number for number, name in enumerate(LIMITS) if name.startswith("total")})),
}  # fmt: skip
SECRETS = {"volume": f"/volume:{ID}:guest", "iscsi": f"volume:{ID}:guest",
           "ceph": f"volume:{ID}:guest"}  # fmt: skip


def disk(name):
    return volumes.device(*DISKS[name])


def secret(usage):
    return secrets.document(SECRET, usage, SECRETS[usage])
