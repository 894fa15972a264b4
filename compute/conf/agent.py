"""[DEFAULT]: who this agent is, where it keeps its state, and how it speaks."""

from oslo_config import cfg

GROUP = None

OPTS = [
    cfg.StrOpt(
        "host",
        sample_default="the host name",
        help="Name of this host in RPC and in the control plane. Must equal the name under which "
        "the service was first registered; changing it later is refused at start.",
    ),
    cfg.StrOpt(
        "concurrency",
        default="eventlet",
        choices=["eventlet", "threading"],
        help="Green or native threads. Read before anything else is imported; the environment "
        "variable MAGNETAR_CONCURRENCY overrules it.",
    ),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/magnetar",
        help="Directory of the journal, the node identity, the control socket and secrets. Must "
        "survive a reboot; two agents cannot share it.",
    ),
    cfg.StrOpt(
        "compute_driver",
        default="libvirt",
        choices=["libvirt", "fake"],
        help="The hypervisor driver. 'fake' keeps guests as files and runs nothing.",
    ),
    cfg.StrOpt(
        "image_dir",
        default="$state_path/images",
        help="Directory of images, each ID with its ID.json, used when no image service is set.",
    ),
    cfg.StrOpt(
        "socket",
        default="$state_path/control.sock",
        help="Path of the control socket (HTTP and JSON on a unix socket, mode 0660).",
    ),
    cfg.IntOpt(
        "service_version",
        default=74,
        min=66,
        help="Service version to announce to the control plane; 74 is Nova 2026.2's (release 34), "
        "72 is 2026.1's. A control plane refuses a version older than it supports.",
    ),
    cfg.IntOpt(
        "oldest_service_version",
        default=72,
        help="Refuse to start when the cell's oldest nova-compute service is older than this.",
    ),
    cfg.IntOpt(
        "report_interval",
        default=10,
        min=1,
        help="Seconds between two heartbeats; the control plane calls a host down after 60.",
    ),
    cfg.IntOpt(
        "audit_interval",
        default=60,
        min=5,
        help="Seconds between two passes of reconciliation, power-state sync and inventory.",
    ),
    cfg.IntOpt(
        "operation_workers",
        default=10,
        min=1,
        help="How many operations run at once; more wait in the journal.",
    ),
    cfg.StrOpt(
        "instance_name_template",
        default="instance-%08x",
        help="Domain name from the instance's database id, as Nova's; 'uuid' names domains by "
        "their uuid.",
    ),
    cfg.BoolOpt(
        "resume_guests_state_on_host_boot",
        default=False,
        help="Start guests again that ran before the host went down.",
    ),
    cfg.BoolOpt(
        "force_config_drive",
        default=False,
        help="Give every guest a config drive, asked for or not.",
    ),
    cfg.StrOpt(
        "network_service",
        default="none",
        choices=["none", "embedded"],
        help="Who gives addresses: nobody (guests have no network), or the embedded control "
        "plane. 'magnetar up' sets embedded.",
    ),
    cfg.StrOpt(
        "dhcp_domain",
        default="",
        help="Appended to the host name in the guest's metadata; empty for none.",
    ),
]
