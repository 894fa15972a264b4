"""[disk]: where disks and cached images live, how they are made, and how long they are kept."""

from oslo_config import cfg

GROUP = "disk"

OPTS = [
    cfg.StrOpt(
        "instances_path",
        default="$state_path/instances",
        help="Directory of the guests' disks (one directory for each, named by uuid), of the image "
        "cache (_base) and of quarantine (_quarantine). QEMU's user must be able to traverse it.",
    ),
    cfg.StrOpt(
        "images_type",
        default="qcow2",
        choices=["qcow2", "raw"],
        help="How a root disk is made: 'qcow2' is an overlay on the cached image, made in "
        "milliseconds; 'raw' is a full copy, slower to make and a little faster to use.",
    ),
    cfg.BoolOpt(
        "force_raw_images",
        default=False,
        # Nova's default is True: it wins a few per cent of read speed for a conversion before the
        # first boot and a base that takes the image's whole size. The danger that conversion
        # takes away (a header that lies) is met here by inspection and by recorded formats.
        help="Convert images to raw when they enter the cache.",
    ),
    cfg.StrOpt(
        "default_ephemeral_format",
        default="ext4",
        choices=["ext4", "none"],
        help="File system that ephemeral disks carry when a guest first sees them.",
    ),
    cfg.IntOpt(
        "image_cache_seconds",
        default=86400,
        min=0,
        help="Seconds after its last use at which an image that no guest uses leaves the cache.",
    ),
    cfg.IntOpt(
        "quarantine_days",
        default=7,
        min=0,
        help="Days after which disks in quarantine are removed.",
    ),
    cfg.IntOpt(
        "images_cpu_time_limit",
        default=30,
        min=1,
        help="Seconds of CPU time that one qemu-img may use; copies get ten more for each GiB.",
    ),
    cfg.IntOpt(
        "images_address_space_limit",
        default=2,
        min=1,
        help="GiB of address space that one qemu-img may use.",
    ),
    cfg.IntOpt(
        "command_timeout",
        default=600,
        min=1,
        help="Seconds after which qemu-img, mkfs and the like are killed.",
    ),
    cfg.IntOpt(
        "image_lock_timeout",
        default=1800,
        min=1,
        help="Seconds that a build waits for another build which downloads the same image.",
    ),
    cfg.StrOpt(
        "mkisofs_cmd",
        default="genisoimage",
        help="Command that makes the iso9660 file system of a config drive (genisoimage, mkisofs).",
    ),
]
