"""[libvirt], the part about volumes, and about root disks that are no files."""

from oslo_config import cfg

GROUP = "libvirt"

OPTS = [
    cfg.StrOpt(
        "volume_iscsi",
        default="qemu",
        choices=[
            ("qemu", "each guest's QEMU logs in by itself, over one path (qemu-block-extra)"),
            ("host", "the kernel's initiator, by os-brick; can have several paths"),
        ],
        help="Who connects to iSCSI volumes. QEMU's sessions end with the guest and leave nothing "
        "on the host; host needs open-iscsi, os-brick (pip install magnetar[volumes]) and, for "
        "several paths, multipathd. Detach all iSCSI volumes before you change it.",
    ),
    cfg.BoolOpt(
        "volume_use_multipath",
        default=False,
        help="Let os-brick connect all paths to a volume and use them through multipathd. Without "
        "it a guest's disk fails with the one path that it has.",
    ),
    cfg.BoolOpt(
        "volume_enforce_multipath",
        default=False,
        help="Refuse to connect volumes while multipathd does not run, instead of going on with "
        "one path (needs volume_use_multipath).",
    ),
    cfg.IntOpt(
        "num_volume_scan_tries",
        default=5,
        min=1,
        help="How many times os-brick looks for the device of a volume, with longer and longer "
        "pauses. Raise it where storage takes long to show new volumes.",
    ),
    cfg.IntOpt(
        "volume_timeout",
        default=300,
        min=1,
        help="Seconds that os-brick may take for one volume. After them the outcome counts as "
        "unknown, and the volume is not touched until it is over. Too short gives up on storage "
        "that would have answered.",
    ),
    cfg.StrOpt(
        "volume_root_helper",
        default="sudo",
        help="Command by which os-brick gets root's rights (its privsep-helper) when the agent "
        "runs as another user. As root, nothing is run by it.",
    ),
    cfg.StrOpt(
        "nfs_mount_options",
        default="",
        help="Options with which NFS shares of volumes are mounted, for example vers=4.2. Empty "
        "tries versions 4.2, 4.1 and what else mount finds.",
    ),
    cfg.StrOpt(
        "rbd_user",
        default="",
        help="Ceph user for volumes in RBD, instead of the one that the volume service names, and "
        "for root disks there. It goes with rbd_secret_uuid.",
    ),
    cfg.StrOpt(
        "rbd_secret_uuid",
        default="",
        help="uuid of the libvirt secret with the key of rbd_user; it has to be defined on each "
        "host (virsh secret-define, secret-set-value). Empty uses the secret or keyring that the "
        "volume service names.",
    ),
    cfg.StrOpt(
        "images_volume_group",
        default="",
        help="Volume group of LVM for [disk] images_type = lvm. It has to stay set while a guest "
        "has its root disk there.",
    ),
    cfg.StrOpt(
        "images_rbd_pool",
        default="rbd",
        help="Pool of Ceph for [disk] images_type = rbd. It has to stay the same while a guest "
        "has its root disk there.",
    ),
    cfg.StrOpt(
        "images_rbd_ceph_conf",
        default="/etc/ceph/ceph.conf",
        help="Ceph's configuration file for root disks, which names the monitors: the command rbd "
        "and QEMU read it.",
    ),
]
