"""The compute RPC API at 6.5: every method with its arguments, ``?`` marking optional ones.

Source: the client methods of Nova 2026.2 as listed in docs/architecture.md, and messages captured
from a stock control plane. ``cast`` methods are answered to nobody; ``call`` methods return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from compute.model.wire import malformed

VERSION = "6.5"
# Types of the arguments of what we carry out; an object is a dict, and a name means the same in
# all methods.
TYPES: dict[str, tuple[type, ...]] = {
    "instance": (dict,), "image": (dict, NoneType), "request_spec": (dict, NoneType),
    "filter_properties": (dict, NoneType), "admin_password": (str, NoneType),
    "injected_files": (list, NoneType), "requested_networks": (dict, NoneType),
    "block_device_mapping": (dict, NoneType), "node": (str, NoneType),
    "limits": (dict, NoneType), "host_list": (list, NoneType), "bdms": (dict, NoneType),
    "clean_shutdown": (bool,), "reboot_type": (str,), "tail_length": (int, str, NoneType),
    "instances": (list,), "events": (list,), "enabled": (bool,),
    "migration": (dict, NoneType), "migrate_data": (dict, NoneType), "dest": (str,),
    "disk": (str,), "dest_check_data": (dict,), "block_migration": (bool, NoneType),
    "disk_over_commit": (bool, NoneType), "destroy_disks": (bool,), "flavor": (dict, NoneType),
    "network_id": (str, NoneType), "port_id": (str, NoneType),
    "requested_ip": (str, NoneType), "tag": (str, NoneType),
    "console_type": (str,), "port": (int, str, NoneType),
    "disk_info": (str,), "rescue_password": (str, NoneType),
    "rescue_image_ref": (str, NoneType), "new_pass": (str, NoneType),
    "mapping": (dict, list, NoneType), "image_ref": (str, NoneType), "recreate": (bool,),
    "image_id": (str,), "image_ids": (list,), "backup_type": (str,), "rotation": (int,),
    "bdm": (dict,), "volume_id": (str,), "attachment_id": (str, NoneType),
    "device": (str, NoneType), "disk_bus": (str, NoneType), "device_type": (str, NoneType),
    "multiattach": (bool, NoneType), "old_volume_id": (str,), "new_volume_id": (str,),
    "new_attachment_id": (str, NoneType), "delete_attachment": (bool, NoneType),
}


@dataclass(frozen=True)
class Method:
    """One RPC method. ``args`` are required, ``optional`` may be missing."""

    name: str
    kind: str
    args: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise Refused(code='bad_request') when arguments are missing or unknown."""
        missing = [name for name in self.args if name not in given]
        unknown = [name for name in given if name not in (*self.args, *self.optional)]
        if missing or unknown:
            parts = []
            if missing:
                parts.append(f"lacks {', '.join(missing)}")
            if unknown:
                parts.append(f"has no argument {', '.join(unknown)}")
            raise malformed(f"The call of {self.name} {' and '.join(parts)}.")

    def check_types(self, given: Mapping[str, Any]) -> None:
        """Raise Refused(code='bad_request') when an argument is of a type that it cannot have."""
        for name, value in given.items():
            if not isinstance(value, TYPES.get(name, (object,))):
                raise malformed(f"Argument '{name}' of {self.name} cannot be "
                                f"{type(value).__name__}.")


_TABLE = """
build_and_run_instance cast instance image request_spec filter_properties admin_password? \
injected_files? requested_networks? security_groups? block_device_mapping? node? limits? \
host_list? accel_uuids?
terminate_instance cast instance bdms
soft_delete_instance cast instance
restore_instance cast instance
rebuild_instance cast instance new_pass injected_files image_ref orig_image_ref orig_sys_metadata \
bdms recreate on_shared_storage preserve_ephemeral migration scheduled_node limits request_spec \
accel_uuids? reimage_boot_volume? target_state?
start_instance cast instance
stop_instance cast instance clean_shutdown?
reboot_instance cast instance block_device_info reboot_type
pause_instance cast instance
unpause_instance cast instance
suspend_instance cast instance
resume_instance cast instance
rescue_instance cast instance rescue_password rescue_image_ref? clean_shutdown?
unrescue_instance cast instance
trigger_crash_dump cast instance
set_admin_password call instance new_pass
get_diagnostics call instance
get_instance_diagnostics call instance
quiesce_instance call instance
unquiesce_instance cast instance mapping?
snapshot_instance cast image_id instance
backup_instance cast image_id instance backup_type rotation
shelve_instance cast instance image_id clean_shutdown? accel_uuids?
shelve_offload_instance cast instance clean_shutdown? accel_uuids?
unshelve_instance cast instance image filter_properties node request_spec? accel_uuids?
cache_images call image_ids
volume_snapshot_create cast instance volume_id create_info
volume_snapshot_delete cast instance volume_id snapshot_id delete_info
reserve_block_device_name call instance device volume_id disk_bus device_type tag multiattach
attach_volume cast instance bdm
detach_volume cast volume_id instance attachment_id?
swap_volume cast instance old_volume_id new_volume_id new_attachment_id?
remove_volume_connection call instance volume_id delete_attachment?
allow_share cast instance share_mapping
deny_share cast instance share_mapping
attach_interface call instance network_id port_id requested_ip tag?
detach_interface cast instance port_id
add_fixed_ip_to_instance cast instance network_id
remove_fixed_ip_from_instance cast instance address
inject_network_info cast instance
external_instance_event cast instances events
prep_resize cast image instance flavor request_spec filter_properties node clean_shutdown \
migration host_list
resize_instance cast instance image migration flavor clean_shutdown request_spec?
finish_resize cast disk_info image instance migration request_spec?
confirm_resize cast instance migration
revert_resize cast instance migration request_spec?
finish_revert_resize cast instance migration request_spec?
check_instance_shared_storage call data
prep_snapshot_based_resize_at_dest call instance flavor nodename migration limits
prep_snapshot_based_resize_at_source call instance migration snapshot_id?
finish_snapshot_based_resize_at_dest call instance migration snapshot_id request_spec?
confirm_snapshot_based_resize_at_source call instance migration
revert_snapshot_based_resize_at_dest call instance migration
finish_revert_snapshot_based_resize_at_source call instance migration
check_can_live_migrate_destination call instance block_migration disk_over_commit migration? limits?
check_can_live_migrate_source call instance dest_check_data
live_migration cast dest instance block_migration migration migrate_data
pre_live_migration call instance disk migrate_data
post_live_migration_at_destination call instance block_migration
rollback_live_migration_at_destination cast instance destroy_disks migrate_data
drop_move_claim_at_destination call instance
live_migration_force_complete cast instance
live_migration_abort cast instance migration_id
get_console_output call instance tail_length
get_console_topic call
get_vnc_console call console_type instance
get_spice_console call console_type instance
get_serial_console call console_type instance
get_mks_console call console_type instance
validate_console_port call instance port console_type
host_maintenance_mode call host? host_param? mode
host_power_action call action
set_host_enabled call enabled
get_host_uptime call
"""


def _parse(line: str) -> Method:
    name, kind, *args = line.split()
    return Method(name, kind, tuple(a for a in args if not a.endswith("?")),
                  tuple(a[:-1] for a in args if a.endswith("?")))


METHODS: dict[str, Method] = {
    method.name: method for method in map(_parse, _TABLE.strip().splitlines())
}
