"""[DEFAULT]: who this agent is, where it keeps its state, and how it speaks."""

from oslo_config import cfg

GROUP = None

OPTS = [
    cfg.StrOpt(
        "host",
        sample_default="the host name",
        help="Name of this host in RPC and in the control plane. It has to stay the name under "
        "which the service was first registered: with another one the agent refuses to start, "
        "since it would disown its guests. Set it when the host's name may change.",
    ),
    cfg.StrOpt(
        "my_ip",
        default="",
        help="Address of this host on the management network, which the control plane shows as "
        "host_ip; empty takes the one that is used towards other machines. Set it on a host with "
        "several networks, where that may be another one. Where memory and disks of moving "
        "guests go is [libvirt] live_migration_inbound_addr.",
    ),
    cfg.StrOpt(
        "concurrency",
        default="eventlet",
        choices=[
            ("eventlet", "green threads; libvirt is called in native ones"),
            ("threading", "native threads only"),
        ],
        help="Which threads run the agent. It is read before anything else is imported; the "
        "environment variable MAGNETAR_CONCURRENCY overrules it. Every test passes with both, so "
        "the choice costs or saves memory and processor time, never a guest.",
    ),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/magnetar",
        help="Directory of the journal, the node identity, the control socket and the secrets of "
        "running operations. It has to be on a local disk and to survive a reboot: without the "
        "journal, unfinished operations are only judged by what is observed, and without the "
        "identity file the agent refuses to start. Two agents cannot share it; the second one is "
        "refused.",
    ),
    cfg.StrOpt(
        "compute_driver",
        default="libvirt",
        choices=[
            ("libvirt", "real guests, under libvirt and QEMU"),
            ("fake", "guests are files and nothing runs; for tests"),
        ],
        help="The hypervisor driver. On a host with guests, changing it makes them seem gone, "
        "which is reported and not acted upon.",
    ),
    cfg.StrOpt(
        "image_dir",
        default="$state_path/images",
        help="Directory of images, each ID with its ID.json, used when no image service is set. "
        "With several hosts all of them need the same images there, for example on a shared file "
        "system; a build on a host that lacks its image ends in error.",
    ),
    cfg.StrOpt(
        "image_service",
        default="local",
        choices=[
            ("local", "images are files of image_dir"),
            ("glance", "the cloud's image service has them; see [glance]"),
        ],
        help="Where this host gets images, and stores those of its guests. The embedded control "
        "plane keeps its own in image_dir and knows no others: with it, leave it local.",
    ),
    cfg.StrOpt(
        "socket",
        default="$state_path/control.sock",
        help="Path of the control socket (HTTP and JSON on a unix socket, mode 0660), through "
        "which the magnetar command works even when broker and database do not. Whoever may write "
        "to it rules this host's guests: widen its group with care.",
    ),
    cfg.IntOpt(
        "service_version",
        default=74,
        min=66,
        help="Service version to announce to the control plane; 74 is Nova 2026.2's (release 34), "
        "72 is 2026.1's. A control plane refuses a version older than it supports; a higher one "
        "promises features that this agent does not have, and requests for them would fail.",
    ),
    cfg.IntOpt(
        "oldest_service_version",
        default=72,
        help="Refuse to start when the cell's oldest nova-compute service has a lower version "
        "than this. The default is one release back, which is as far as Nova upgrades in one "
        "step; lower values are not tested.",
    ),
    cfg.IntOpt(
        "report_interval",
        default=10,
        min=1,
        help="Seconds between two heartbeats. The control plane calls a host down after 60 s of "
        "silence (service_down_time), so the default survives five lost ones; with more than half "
        "of that a host flaps between up and down.",
    ),
    cfg.IntOpt(
        "audit_interval",
        default=60,
        min=5,
        help="Seconds between two passes of reconciliation, power-state sync and inventory. Events "
        "start a pass earlier; the timer only catches what events missed. A pass costs the same "
        "few calls however many guests there are, so a shorter interval is cheap; a longer one "
        "makes lost messages and missed events be noticed later.",
    ),
    cfg.IntOpt(
        "operation_workers",
        default=10,
        min=1,
        help="How many operations run at once; more wait in the journal and lose nothing. The "
        "default is Nova's max_concurrent_builds. Too many slow each other on the host's disk, "
        "too few let a stop wait behind builds that download.",
    ),
    cfg.StrOpt(
        "instance_name_template",
        default="instance-%08x",
        help="Domain name from the instance's database id, as Nova's, so that tools that know "
        "Nova find their domains; 'uuid' names domains by their uuid. Choose before the first "
        "guest: libvirt does not define a guest that it knows under another name, so starts and "
        "reboots would fail until the former template is back.",
    ),
    cfg.BoolOpt(
        "resume_guests_state_on_host_boot",
        default=False,
        help="Start guests again that ran before the host went down. Off, as in Nova, because "
        "after a crash somebody may have evacuated them: without fencing or disk locks (virtlockd) "
        "a guest could then run twice. Off, they become stopped and their owners start them.",
    ),
    cfg.BoolOpt(
        "resume_paused_guests",
        default=False,
        help="Let a guest run again that QEMU paused because its storage failed or was full: at "
        "once, after one minute, two, four and so on, ten times within a day at most. Off, it is "
        "only reported, and it stands until somebody lets it run. Guests that were paused for "
        "another reason are never touched. On, a guest whose storage keeps failing writes to it "
        "again and again.",
    ),
    cfg.IntOpt(
        "rescue_timeout",
        default=0,
        min=0,
        help="Seconds after which a rescued guest boots its own system again by itself; 0 waits "
        "for ever, as in Nova. Short values throw people out of a rescue that they work in.",
    ),
    cfg.IntOpt(
        "reclaim_instance_interval",
        default=0,
        min=0,
        help="Seconds that a deleted server can still be restored: it is powered off and keeps its "
        "disks, addresses and its place on the host until then. 0 deletes at once, and "
        "soft-deleted servers of before stay until somebody acts on them. The control plane and "
        "all its hosts need the same value; where a host's is shorter, servers go sooner than "
        "their owners were told.",
    ),
    cfg.BoolOpt(
        "force_config_drive",
        default=False,
        help="Give every guest a config drive, asked for or not. Needed where no metadata service "
        "answers guests; it costs below a MiB and some milliseconds for each. Guests that exist "
        "keep what they were built with.",
    ),
    cfg.StrOpt(
        "network_service",
        default="none",
        choices=[
            ("none", "guests have no network"),
            ("embedded", "the embedded control plane gives addresses"),
            ("neutron", "the cloud's network service does; see [neutron]"),
        ],
        help="Who gives ports and addresses. 'magnetar up' makes it embedded unless it is set. "
        "With none, a build that asks for a network is refused rather than left without one.",
    ),
    cfg.StrOpt(
        "volume_service",
        default="none",
        choices=[
            ("none", "guests have no volumes"),
            ("embedded", "the embedded control plane keeps volumes"),
            ("cinder", "the cloud's volume service does; see [cinder]"),
        ],
        help="Who keeps volumes. 'magnetar up' makes it embedded unless it is set. With none, "
        "whatever asks for a volume is refused. Changing it on a host whose guests have volumes "
        "leaves these without anybody to ask: detach them first.",
    ),
    cfg.StrOpt(
        "inventory_service",
        default="none",
        choices=[
            ("none", "the control plane reads the ComputeNode record"),
            ("placement", "the cloud's placement service is told too; see [placement]"),
        ],
        help="Who besides the control plane is told what this host has. A stock Nova's scheduler "
        "sends no guests to a host that Placement does not know; the embedded one needs none.",
    ),
    cfg.StrOpt(
        "dhcp_domain",
        default="",
        help="Appended to the host name in the guest's metadata, as in name.example.org; empty "
        "for none. It only reaches config drives that are made from then on.",
    ),
]
