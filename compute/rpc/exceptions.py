"""Errors across the wire, in both directions, in one table each.

Nova's callers re-create an exception by module and class name, so ours are classes that call
themselves ``nova.exception.<Name>`` without Nova being there. What the conductor raises arrives as
oslo.messaging's RemoteError naming the class, since we have no nova.exception to import.
"""

from __future__ import annotations

from functools import cache

import oslo_messaging as messaging
from oslo_messaging.rpc.client import RemoteError

from compute.errors import Failed, MagnetarError, NeedsOperator, Refused, Retryable, Unknown

# Our codes -> the class of nova.exception that callers of the compute RPC API expect.
TO_NOVA = {
    "no_room": "ComputeResourcesUnavailable",
    "guest_not_found": "InstanceNotFound",
    "busy": "InstanceInvalidState",
    "stale": "UnexpectedTaskStateError",
    "deleting": "UnexpectedDeletingTaskStateError",
    "bad_request": "Invalid",
    "image_not_found": "ImageNotFound",
    "image_unacceptable": "ImageUnacceptable",
    "flavor_unacceptable": "Invalid",
    "flavor_disk_too_small": "FlavorDiskSmallerThanImage",
    "flavor_memory_too_small": "FlavorMemoryTooSmall",
    "network_missing": "NetworkNotFound",
    "host_not_found": "ComputeHostNotFound",
    "service_not_found": "ServiceNotFound",
    "service_too_old": "ServiceTooOld",
    "disk_full": "InsufficientFreeDiskSpace",
    "no_valid_host": "NoValidHost",
    "migration_not_found": "MigrationNotFound",
    "disk_shrink": "CannotResizeDisk",
    "same_host": "UnableToMigrateToSelf",
    "cannot_move": "MigrationPreCheckError",
    "incoming_busy": "IncomingMigrationsLimit",
    "no_migration": "InvalidMigrationState",
    "timeout": "MigrationTimeout",
    "lease_over": "MigrationError",
    "migration_failed": "MigrationError",
    "agent_missing": "QemuGuestAgentNotEnabled",
    "agent_unresponsive": "InstanceAgentNotEnabled",
    "password_refused": "InstancePasswordSetFailed",
    "not_running": "InstanceInvalidState",
    "address_in_use": "FixedIpAlreadyInUse",
    "bad_address": "InvalidInput",
    "no_more_addresses": "NoMoreFixedIps",
    "port_missing": "PortNotFound",
    "port_in_use": "PortInUse",
    "attach_failed": "InterfaceAttachFailed",
    "volume_not_found": "VolumeNotFound",
    "volume_attached": "InvalidVolume",
    "device_in_use": "DevicePathInUse",
    "too_many_disks": "TooManyDiskDevices",
    "mapping_not_found": "VolumeBDMNotFound",
    "console_unavailable": "ConsoleTypeUnavailable",
    "console_type_unknown": "ConsoleTypeInvalid",
    "console_not_ready": "InstanceNotReady",
}

# The conductor's exception classes -> kind and code of ours.
FROM_NOVA: dict[str, tuple[type[MagnetarError], str]] = {
    "UnexpectedTaskStateError": (Refused, "stale"),
    "UnexpectedVMStateError": (Refused, "stale"),
    "InstanceUpdateConflict": (Refused, "stale"),
    "UnknownInstanceUpdateConflict": (Unknown, "conflict"),
    "UnexpectedDeletingTaskStateError": (Refused, "deleting"),
    "InstanceNotFound": (Refused, "guest_not_found"),
    "ComputeHostNotFound": (Refused, "host_not_found"),
    "ComputeHostNotCreated": (Retryable, "conductor_error"),
    "HostBinaryNotFound": (Refused, "service_not_found"),
    "ServiceNotFound": (Refused, "service_not_found"),
    "ServiceTooOld": (Refused, "service_too_old"),
    "InstanceActionNotFound": (Refused, "action_not_found"),
    "InstanceActionEventNotFound": (Refused, "action_not_found"),
    "InstanceInfoCacheNotFound": (Refused, "guest_not_found"),
    "MigrationNotFound": (Refused, "migration_not_found"),
    "NoValidHost": (Refused, "no_valid_host"),
    "NetworkNotFound": (Refused, "network_missing"),
    "FixedIpAlreadyInUse": (Refused, "address_in_use"),
    "NoMoreFixedIps": (Refused, "no_more_addresses"),
    "PortNotFound": (Refused, "port_missing"),
    "PortInUse": (Refused, "port_in_use"),
    "InterfaceAttachFailed": (Failed, "attach_failed"),
    "VolumeNotFound": (Refused, "volume_not_found"),
    "InvalidVolume": (Refused, "volume_attached"),
    "DevicePathInUse": (Refused, "device_in_use"),
    "TooManyDiskDevices": (Refused, "too_many_disks"),
    "VolumeBDMNotFound": (Refused, "mapping_not_found"),
    "BDMNotFound": (Refused, "mapping_not_found"),
    "InstanceInvalidState": (Refused, "busy"),
    "ConsoleTypeUnavailable": (Refused, "console_unavailable"),
    "ConsoleTypeInvalid": (Refused, "console_type_unknown"),
    "InstanceNotReady": (Refused, "console_not_ready"),
    "MigrationPreCheckError": (Refused, "cannot_move"),
    "IncomingMigrationsLimit": (Retryable, "incoming_busy"),
    "MigrationTimeout": (Unknown, "timeout"),
    "ComputeResourcesUnavailable": (Refused, "no_room"),
    "QemuGuestAgentNotEnabled": (Refused, "agent_missing"),
    "InstanceAgentNotEnabled": (Retryable, "agent_unresponsive"),
    "InstancePasswordSetFailed": (Failed, "password_refused"),
    "DBConnectionError": (Unknown, "conductor_database"),
    "DBDeadlock": (Retryable, "conductor_database"),
    "OperationalError": (Unknown, "conductor_database"),
    "DBError": (Unknown, "conductor_database"),
}


@cache
def nova_exception(name: str) -> type[Exception]:
    """A class that serializes as ``nova.exception.<name>``.

    Its first argument is the message; ``code`` is the HTTP status that Nova's API may look at.
    """

    def __init__(self, message: str = "", **kwargs):
        Exception.__init__(self, message)
        self.kwargs = dict(kwargs)  # the message is in args already; given twice it fails there

    def __str__(self) -> str:
        return self.args[0] if self.args else ""

    return type(name, (Exception,), {
        "__module__": "nova.exception", "__init__": __init__, "__str__": __str__,
        "__doc__": f"Stands for nova.exception.{name} on the wire.",
    })


def to_nova(error: MagnetarError) -> Exception:
    """Our error as the exception that Nova's callers expect."""
    return nova_exception(TO_NOVA.get(error.code, "NovaException"))(str(error))


def from_remote(error: Exception, doing: str) -> MagnetarError:
    """What an RPC call raised, as one of our kinds.

    :param doing: what was being asked, for the message: "save instance …".
    """
    if isinstance(error, MagnetarError):
        return error
    if isinstance(error, messaging.MessagingTimeout):
        return Unknown(f"No answer came when asked to {doing}.", code="rpc_timeout",
                       next="It is asked again until the control plane answers.")
    if isinstance(error, messaging.MessageDeliveryFailure | OSError) \
            or type(error).__module__.partition(".")[0] in ("kombu", "amqp"):
        return Retryable(f"The message broker did not take the request to {doing}.",
                         code="broker_unreachable")
    name = error.exc_type if isinstance(error, RemoteError) else type(error).__name__
    text = error.value if isinstance(error, RemoteError) else str(error)
    kind, code = FROM_NOVA.get(name, (Failed, "remote_error"))
    if kind is NeedsOperator or kind is Failed:
        return kind(f"The other side could not {doing}: {name}: {text}", code=code)
    return kind(f"Could not {doing}: {text}", code=code)
