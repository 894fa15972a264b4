"""The control plane's tables, named as Nova names them.

What Nova spreads over ``instance_extra``, ``instance_metadata`` and so on is in JSON columns of
``instances``, so that one UPDATE both compares the state and writes everything.
"""

from __future__ import annotations

import sqlalchemy as sa

from db.control.types import WireTime

METADATA = sa.MetaData()


def json(name: str) -> sa.Column:
    """Any JSON value; None is NULL."""
    return sa.Column(name, sa.JSON(none_as_null=True))


def text(name: str, length: int = 255, **kwargs) -> sa.Column:
    """Short text."""
    return sa.Column(name, sa.String(length), **kwargs)


def uuid(name: str, **kwargs) -> sa.Column:
    """A UUID as text."""
    return sa.Column(name, sa.String(36), **kwargs)


def number(name: str, **kwargs) -> sa.Column:
    """A whole number of 32 bits."""
    return sa.Column(name, sa.Integer, **kwargs)


def big(name: str, **kwargs) -> sa.Column:
    """A whole number of 64 bits."""
    return sa.Column(name, sa.BigInteger, **kwargs)


def flag(name: str, default: bool = False) -> sa.Column:
    """Yes or no, never NULL."""
    return sa.Column(
        name, sa.Boolean, nullable=False, default=default,
        server_default=sa.true() if default else sa.false(),
    )


def times(soft_delete: bool = True) -> list[sa.Column]:
    """When a row was made and changed, and with ``soft_delete`` whether it counts as deleted."""
    columns = [
        sa.Column("created_at", WireTime, nullable=False),
        sa.Column("updated_at", WireTime),
    ]
    if soft_delete:
        columns += [sa.Column("deleted_at", WireTime), flag("deleted")]
    return columns


def table(name: str, *items, soft_delete: bool = True) -> sa.Table:
    """A table with a number as its key and the columns of :func:`times`."""
    columns = [item for item in items if isinstance(item, sa.Column)]
    others = [item for item in items if not isinstance(item, sa.Column)]
    return sa.Table(
        name, METADATA, number("id", primary_key=True), *columns, *times(soft_delete), *others
    )


services = table(
    "services",
    uuid("uuid", nullable=False, unique=True),
    text("host", nullable=False), text("binary", nullable=False), text("topic"),
    number("report_count", nullable=False, default=0),
    flag("disabled"), text("disabled_reason"), sa.Column("last_seen_up", WireTime),
    flag("forced_down"), number("version", nullable=False, default=0),
    text("availability_zone"),
    # ours: when an operator confirmed that the host is fenced; until it is heard of again
    sa.Column("fenced_at", WireTime),
    sa.UniqueConstraint("host", "binary", name="uniq_services_host_binary"),
)

compute_nodes = table(
    "compute_nodes",
    uuid("uuid", nullable=False, unique=True), number("service_id"),
    text("host", nullable=False), text("hypervisor_hostname", nullable=False),
    number("vcpus", nullable=False, default=0), big("memory_mb", nullable=False, default=0),
    big("local_gb", nullable=False, default=0), number("vcpus_used", nullable=False, default=0),
    big("memory_mb_used", nullable=False, default=0),
    big("local_gb_used", nullable=False, default=0),
    sa.Column("hypervisor_type", sa.Text), number("hypervisor_version"), big("free_ram_mb"),
    big("free_disk_gb"), number("current_workload"), number("running_vms"),
    sa.Column("cpu_info", sa.Text), big("disk_available_least"), sa.Column("metrics", sa.Text),
    json("stats"), text("host_ip", 45), sa.Column("numa_topology", sa.Text),
    json("supported_hv_specs"), json("pci_device_pools"),
    sa.Column("cpu_allocation_ratio", sa.Float), sa.Column("ram_allocation_ratio", sa.Float),
    sa.Column("disk_allocation_ratio", sa.Float), number("mapped", default=0),
    sa.UniqueConstraint("host", "hypervisor_hostname", name="uniq_compute_nodes_host_node"),
)

instances = table(
    "instances",
    uuid("uuid", nullable=False, unique=True), text("user_id"), text("project_id"),
    text("image_ref"), text("kernel_id"), text("ramdisk_id"), text("hostname"),
    number("launch_index"), text("key_name"), sa.Column("key_data", sa.Text),
    number("power_state"), text("vm_state"), text("task_state"), number("memory_mb"),
    number("vcpus"), number("root_gb"), number("ephemeral_gb"), uuid("ephemeral_key_uuid"),
    text("host"), text("node"), number("compute_id"), number("instance_type_id"),
    sa.Column("user_data", sa.Text), text("reservation_id"),
    sa.Column("launched_at", WireTime), sa.Column("terminated_at", WireTime),
    text("availability_zone"), text("display_name"), text("display_description"),
    text("launched_on"), flag("locked"), text("locked_by"), text("os_type"),
    text("architecture"), text("vm_mode"), text("root_device_name"),
    text("default_ephemeral_device"), text("default_swap_device"), text("config_drive"),
    text("access_ip_v4", 39), text("access_ip_v6", 39), flag("auto_disk_config"),
    number("progress"), flag("shutdown_terminate"), flag("disable_terminate"),
    text("cell_name"), flag("cleaned"), flag("hidden"),
    # what Nova keeps in other tables
    json("metadata"), json("system_metadata"), json("flavor"), json("old_flavor"),
    json("new_flavor"), json("numa_topology"), json("pci_requests"), json("device_metadata"),
    json("vcpu_model"), json("migration_context"), json("keypairs"), json("tags"),
    json("trusted_certs"), json("resources"),
    # ours: the scheduler's claim (Placement's part), and what a build has to be sent again with
    uuid("allocation_node"), text("request_id", 64), json("build_args"),
    uuid("server_group"), sa.Column("scheduled_at", WireTime),
    sa.UniqueConstraint("request_id", "display_name", name="uniq_instances_request_name"),
    sa.Index("instances_host_deleted_idx", "host", "deleted"),
    sa.Index("instances_deleted_idx", "deleted"),
)

instance_info_caches = table(
    "instance_info_caches",
    uuid("instance_uuid", nullable=False, unique=True),
    sa.Column("network_info", sa.Text(), nullable=False),
)

block_device_mapping = table(
    "block_device_mapping",
    uuid("uuid", nullable=False, unique=True), uuid("instance_uuid", index=True),
    text("source_type"), text("destination_type"), text("guest_format"), text("device_type"),
    text("disk_bus"), number("boot_index"), text("device_name"), flag("delete_on_termination"),
    uuid("snapshot_id"), uuid("volume_id", index=True), number("volume_size"), uuid("image_id"),
    flag("no_device"), sa.Column("connection_info", sa.Text), text("tag"),
    uuid("attachment_id"), text("volume_type"), flag("encrypted"),
    uuid("encryption_secret_uuid"), text("encryption_format"), text("encryption_options"),
)

virtual_interfaces = table(
    "virtual_interfaces",
    uuid("uuid", nullable=False, unique=True), text("address"),
    uuid("instance_uuid", index=True), text("tag"),
)

instance_actions = table(
    "instance_actions",
    text("action"), uuid("instance_uuid", nullable=False, index=True), text("request_id"),
    text("user_id"), text("project_id"), sa.Column("start_time", WireTime),
    sa.Column("finish_time", WireTime), text("message"),
)

instance_action_events = table(
    "instance_action_events",
    number("action_id", nullable=False, index=True), text("event"),
    sa.Column("start_time", WireTime), sa.Column("finish_time", WireTime), text("result"),
    sa.Column("traceback", sa.Text), text("host"), sa.Column("details", sa.Text),
)

instance_faults = table(
    "instance_faults",
    uuid("instance_uuid", nullable=False, index=True), number("code", nullable=False),
    text("message"), sa.Column("details", sa.Text), text("host"),
)

migrations = table(
    "migrations",
    uuid("uuid", nullable=False, unique=True), uuid("instance_uuid", index=True),
    text("source_compute"), text("dest_compute"), text("source_node"), text("dest_node"),
    text("dest_host"), number("dest_compute_id"), number("old_instance_type_id"),
    number("new_instance_type_id"), text("status"), text("migration_type"), flag("hidden"),
    big("memory_total"), big("memory_processed"), big("memory_remaining"), big("disk_total"),
    big("disk_processed"), big("disk_remaining"), flag("cross_cell_move"), text("user_id"),
    text("project_id"),
)

# ours: what the conductor remembers of a move as long as it is its turn, and what the move claims
moves = table(
    "moves",
    number("migration_id", nullable=False, unique=True),
    uuid("instance_uuid", nullable=False, index=True), text("request_id", 64),
    uuid("source_node"), uuid("dest_node"),
    number("old_vcpus", nullable=False), number("old_memory_mb", nullable=False),
    number("old_disk_gb", nullable=False), number("new_vcpus", nullable=False),
    number("new_memory_mb", nullable=False), number("new_disk_gb", nullable=False),
    json("args"), number("drain_id", index=True), sa.Column("sent_at", WireTime),
    text("token", 36), sa.Column("message", sa.Text),
    soft_delete=False,
)

drains = table(
    "drains",
    text("host", nullable=False, index=True), text("kind", 16, nullable=False),
    text("status", 16, nullable=False), number("max_moves", nullable=False), json("notes"),
    sa.Column("ended_at", WireTime), soft_delete=False,
)

flavors = table(
    "flavors",
    text("name", nullable=False, unique=True), text("flavorid", nullable=False, unique=True),
    number("vcpus", nullable=False), number("memory_mb", nullable=False),
    number("root_gb", nullable=False), number("ephemeral_gb", nullable=False),
    number("swap", nullable=False), json("extra_specs"), text("description"),
    soft_delete=False,
)

key_pairs = table(
    "key_pairs",
    text("name", nullable=False, unique=True), sa.Column("public_key", sa.Text, nullable=False),
    text("fingerprint"), text("type", nullable=False),
    soft_delete=False,
)

server_groups = table(
    "server_groups",
    uuid("uuid", nullable=False, unique=True), text("name", nullable=False, unique=True),
    text("policy", nullable=False), number("max_server_per_host"),
    soft_delete=False,
)

networks = table(
    "networks",
    uuid("uuid", nullable=False, unique=True), text("name", nullable=False, unique=True),
    text("kind", 16, nullable=False), text("source", nullable=False),
    text("cidr", 64, nullable=False), text("gateway", 45), json("dns"),
    flag("dhcp", True), number("mtu"), text("status", 16, nullable=False),
    text("last_address", 45), soft_delete=False,
)

ports = table(
    "ports",
    uuid("uuid", nullable=False, unique=True),
    sa.Column(
        "network_uuid", sa.String(36),
        sa.ForeignKey("networks.uuid", name="ports_network_uuid_fkey"), nullable=False,
    ),
    uuid("instance_uuid"), number("position"),  # NULL while no server has it
    text("mac", 17, nullable=False, unique=True), text("address", 45, nullable=False),
    text("host"), text("tag"),
    text("name"), flag("kept"),  # kept: it was made by itself, and stays when its server goes
    sa.UniqueConstraint("network_uuid", "address", name="uniq_ports_network_address"),
    sa.UniqueConstraint("instance_uuid", "position", name="uniq_ports_instance_position"),
    soft_delete=False,
)

console_auth_tokens = table(
    "console_auth_tokens",
    text("token_hash", 64, nullable=False, unique=True), text("console_type", nullable=False),
    text("host", nullable=False), number("port", nullable=False), text("internal_access_path"),
    uuid("instance_uuid", nullable=False, index=True),
    number("expires", nullable=False, index=True), text("access_url_base"),
    soft_delete=False,
)

volumes = table(
    "volumes",
    uuid("uuid", nullable=False, unique=True), text("name", index=True), text("description"),
    number("size", nullable=False), text("status", 32, nullable=False), text("format", 16),
    flag("multiattach"), flag("bootable"), text("source_image", 64), uuid("source_volume"),
    json("image_metadata"), json("properties"),
    # of a volume that is elsewhere and was registered by an operator; else it is a file of ours
    json("connection_info"),
    sa.Column("message", sa.Text), text("request_id", 64),
    sa.UniqueConstraint("request_id", "name", name="uniq_volumes_request_name"),
    soft_delete=False,
)

volume_attachments = table(
    "volume_attachments",
    uuid("uuid", nullable=False, unique=True),
    sa.Column(
        "volume_uuid", sa.String(36),
        sa.ForeignKey("volumes.uuid", name="volume_attachments_volume_uuid_fkey"),
        nullable=False, index=True,
    ),
    uuid("instance_uuid", nullable=False, index=True), text("status", 16, nullable=False),
    text("host"), text("mountpoint"), json("connector"),
    # the volume goes when its last attachment does: delete_on_termination of a server that is gone
    flag("delete_volume"),
    soft_delete=False,
)
