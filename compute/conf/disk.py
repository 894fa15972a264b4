"""[disk]: where disks and cached images live, how they are made, and how long they are kept."""

from oslo_config import cfg

GROUP = "disk"

OPTS = [
    cfg.StrOpt(
        "instances_path",
        default="$state_path/instances",
        help="Directory of the guests' disks (one directory for each, named by uuid), of the image "
        "cache (_base) and of quarantine (_quarantine). QEMU's user must be able to traverse it, "
        "or no guest starts. Moving it needs the disks moved as well: guests without their disks "
        "are refused a start, and nothing is made in their place.",
    ),
    cfg.StrOpt(
        "images_type",
        default="qcow2",
        choices=[
            ("qcow2", "an overlay on the cached image, made in milliseconds"),
            ("raw", "a full copy, slower to make and a little faster to use"),
            ("lvm", "a logical volume in images_volume_group; never run with this code"),
            ("rbd", "a clone in Ceph's images_rbd_pool; never run with this code"),
        ],
        help="How the root disks of new guests are made. With qcow2 all guests of an image need "
        "its file in the cache, which stays while one of them exists. Guests that exist keep what "
        "they have. Guests in lvm and rbd can be neither resized nor moved (docs/volumes.md).",
    ),
    cfg.BoolOpt(
        "force_raw_images",
        default=False,
        help="Convert images to raw when they enter the cache. It wins a few per cent of read "
        "speed for a conversion before the first boot and a cached file that takes the image's "
        "whole size. Nova's default is true, also against images whose header lies; here formats "
        "are inspected once, written down and never probed again, which meets that danger.",
    ),
    cfg.StrOpt(
        "default_ephemeral_format",
        default="ext4",
        choices=[
            ("ext4", "formatted, with the label ephemeral0"),
            ("none", "left empty"),
        ],
        help="What new ephemeral disks carry when a guest first sees them. Guests that mount it "
        "by label find nothing with none.",
    ),
    cfg.IntOpt(
        "image_cache_seconds",
        default=86400,
        min=0,
        help="Seconds after its last use at which an image that no guest on this host uses leaves "
        "the cache. A day keeps what is built from daily; 0 downloads for every build that "
        "follows a quiet minute.",
    ),
    cfg.IntOpt(
        "quarantine_days",
        default=7,
        min=0,
        help="Days after which disks in quarantine are removed for good. They are disks whose "
        "delete nobody on this host saw, so this is how long a mistake can be put right; 0 "
        "removes them at the next pass.",
    ),
    cfg.IntOpt(
        "images_cpu_time_limit",
        default=30,
        min=1,
        help="Seconds of CPU time that one qemu-img may use; copies get ten more for each GiB. "
        "It stops images that are made to exhaust the host. Too little fails large or compressed "
        "ones, with a message that names this option.",
    ),
    cfg.IntOpt(
        "images_address_space_limit",
        default=2,
        min=1,
        help="GiB of address space that one qemu-img may use, for the same reason. Too little "
        "fails images, with a message that names this option.",
    ),
    cfg.IntOpt(
        "command_timeout",
        default=600,
        min=1,
        help="Seconds after which qemu-img, mkfs and the like are killed and the step is tried "
        "again. It has to allow for converting the largest image on a busy disk.",
    ),
    cfg.IntOpt(
        "image_lock_timeout",
        default=1800,
        min=1,
        help="Seconds that a build waits for another build which downloads the same image. The "
        "same as [timeouts] build: shorter gives up on slow downloads that would have served "
        "both.",
    ),
    cfg.StrOpt(
        "mkisofs_cmd",
        default="genisoimage",
        help="Command that makes the iso9660 file system of a config drive: genisoimage, mkisofs, "
        "or the full path of one. Builds that need a config drive fail without it.",
    ),
]
