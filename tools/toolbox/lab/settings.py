"""The configuration files of the lab's daemons."""

from collections.abc import Mapping

from tools.toolbox.lab.network import SWITCH_ADDRESS

BROKER_URL = f"rabbit://guest:guest@{SWITCH_ADDRESS}:5672/"
# Ask for a broker that is away each second, so that nobody waits longer after it is back.
MESSAGING = {"rabbit_retry_interval": 1, "rabbit_retry_backoff": 0}
Options = Mapping[str, Mapping[str, object]]

LIBVIRTD = """host_uuid = "{host_uuid}"
listen_tls = 1
listen_tcp = 0
auth_tls = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
keepalive_interval = 5
keepalive_count = 3
max_client_requests = 50
max_workers = 60
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU = """user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
lock_manager = "lockd"
migration_host = "{migration_address}"
migration_address = "0.0.0.0"
default_tls_x509_cert_dir = "/etc/pki/qemu"
default_tls_x509_verify = 1
"""
# One lock for each disk, in a directory that is the host's own or, with shared disks, everyone's.
LOCKS = """auto_disk_leases = 1
require_lease_for_disks = 1
file_lockspace_dir = "/var/lib/libvirt/lockd/files"
"""
BROKER = f"""listeners.tcp.1 = {SWITCH_ADDRESS}:5672
loopback_users = none
log.console = true
log.console.level = warning
"""


def agent(host: str, address: str, migration_address: str, more: Options) -> str:
    """A host's magnetar-compute; ``more`` are options by group that overrule these."""
    return _file(
        {
            "DEFAULT": {
                "host": host,
                "my_ip": address,
                "state_path": "/var/lib/magnetar",
                "transport_url": BROKER_URL,
                "network_service": "embedded", "volume_service": "embedded",
                "report_interval": 2,
                "audit_interval": 10,
            },
            "oslo_messaging_rabbit": MESSAGING,
            "disk": {"instances_path": "/var/lib/magnetar/instances"},
            "libvirt": {
                "connection_uri": "qemu:///system",
                "virt_type": "qemu",
                "tb_cache_size": 32,
                # QEMU 7.2's emulation loses memory writes of guests that migrate; rarely so when
                # the guest flushes its TLB at each switch of processes.
                "cpu_model_extra_flags": "-pge",
                "live_migration_inbound_addr": migration_address,
                "live_migration_scheme": "tls",
                "live_migration_with_native_tls": "true",
            },
        },
        more,
    )


def control(state: str, images: str, more: Options) -> str:
    """The control plane in the switch."""
    return _file(
        {
            "DEFAULT": {
                "host": "control",
                "my_ip": SWITCH_ADDRESS,
                "state_path": state,
                "image_dir": images,
                "transport_url": BROKER_URL,
                "network_service": "embedded", "volume_service": "embedded",
            },
            "oslo_messaging_rabbit": MESSAGING,
            "control": {"service_down_time": 20},
        },
        more,
    )


def _file(options: Options, more: Options) -> str:
    merged = {
        group: {**options.get(group, {}), **more.get(group, {})}
        for group in dict.fromkeys([*options, *more])
    }
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()) + "\n"
        for group, values in merged.items()
    )
