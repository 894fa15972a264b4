"""Serves the compute RPC API 6.5, baseapi 1.1 and our operator namespace.

Each handler understands its arguments and either answers at once or hands the request to the
manager; none waits for an operation.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging as messaging

from compute.errors import MagnetarError, Refused
from compute.manager import Manager
from compute.model import wire
from compute.rpc.caching import CacheHandlers
from compute.rpc.consoles import ConsoleHandlers
from compute.rpc.contract import METHODS, VERSION, Method
from compute.rpc.exceptions import to_nova
from compute.rpc.guests import GuestHandlers
from compute.rpc.interfaces import InterfaceHandlers
from compute.rpc.moves import MoveHandlers
from compute.rpc.primitives import data, objects
from compute.rpc.volumes import VolumeHandlers
from db.journal import OperationRow

LOG = logging.getLogger(__name__)
TOPICS = ("compute", "compute-alt")
Handler = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


def as_dict(context: Any) -> dict[str, Any]:
    """A request context as a plain dict."""
    return dict(context.to_dict() if hasattr(context, "to_dict") else context or {})


class Handlers(GuestHandlers, InterfaceHandlers, VolumeHandlers, ConsoleHandlers, CacheHandlers,
               MoveHandlers):
    """What the agent does for each method that it can carry out: ``method(context, args)``."""

    def __init__(self, manager: Manager):
        self.manager = manager
        self.world = manager.world

    def _accept(self, verb: str, context: Mapping[str, Any],
                args: Mapping[str, Any]) -> OperationRow:
        guest = wire.instance_of(args)["uuid"]
        request_id = context.get("request_id") or f"message-{uuid.uuid4()}"
        return self.manager.accept(verb, guest, request_id, args, context)

    def build_and_run_instance(self, context, args) -> None:
        self._accept("spawn", context, args)

    def terminate_instance(self, context, args) -> None:
        self._accept("delete", context, args)

    def start_instance(self, context, args) -> None:
        self._accept("start", context, args)

    def stop_instance(self, context, args) -> None:
        self._accept("stop", context, args)

    def reboot_instance(self, context, args) -> None:
        self._accept("reboot", context, args)

    def rebuild_instance(self, context, args) -> None:
        """New disks in place; or, with ``recreate``, an evacuation to this host."""
        self._accept("evacuate" if args["recreate"] else "rebuild", context, args)

    def pause_instance(self, context, args) -> None:
        self._accept("pause", context, args)

    def unpause_instance(self, context, args) -> None:
        self._accept("unpause", context, args)

    def suspend_instance(self, context, args) -> None:
        self._accept("suspend", context, args)

    def resume_instance(self, context, args) -> None:
        self._accept("resume", context, args)

    def snapshot_instance(self, context, args) -> None:
        self._accept("snapshot", context, args)

    def backup_instance(self, context, args) -> None:
        self._accept("backup", context, args)

    def shelve_instance(self, context, args) -> None:
        self._accept("shelve", context, args)

    def shelve_offload_instance(self, context, args) -> None:
        self._accept("shelve_offload", context, args)

    def unshelve_instance(self, context, args) -> None:
        self._accept("unshelve", context, args)

    def soft_delete_instance(self, context, args) -> None:
        self._accept("soft_delete", context, args)

    def restore_instance(self, context, args) -> None:
        self._accept("restore", context, args)

    def get_console_output(self, context, args) -> str:
        """The console log's last ``tail_length`` lines, or all that is kept (100 KiB)."""
        uuid = wire.instance_of(args)["uuid"]
        lines = args["tail_length"]
        if lines is not None and not str(lines).lstrip("-").isdigit():
            raise wire.malformed("Argument 'tail_length' has to be a number of lines or null.")
        text = self.world.driver.console_log(uuid, 100 * 1024).decode("utf-8", "replace")
        if lines is None or int(lines) < 0:
            return text
        return "".join(text.splitlines(keepends=True)[-int(lines):]) if int(lines) else ""

    def external_instance_event(self, context, args) -> None:
        """Wake what waits for an event; events are no facts. A port that is gone, and a volume that
        grew, are no events of the hypervisor, but wishes: the guest follows."""
        instances = {str(data(one).get("uuid")): one for one in args["instances"]}
        for event in objects({"nova_object.data": {"objects": args["events"]}}):
            fields = data(event)
            LOG.info("Event %s (%s) for guest %s: %s.", fields.get("name"), fields.get("tag"),
                     fields.get("instance_uuid"), fields.get("status"))
            if fields.get("instance_uuid"):
                self.manager.wake(fields["instance_uuid"])
                self.port_deleted(context, fields, instances)
                self.volume_extended(context, fields, instances)

    def set_host_enabled(self, context, args) -> str:
        """Remember whether the host takes new guests; the scheduler reads the Service record."""
        if not isinstance(args["enabled"], bool):
            raise wire.malformed("Argument 'enabled' has to be true or false.")
        self.world.journal.set_fact("enabled", args["enabled"])
        return "enabled" if args["enabled"] else "disabled"

    def get_host_uptime(self, context, args) -> str:
        return self.world.driver.host_uptime()

    def unsupported(self, method: Method, context, args) -> None:
        """Answer a method that exists in 6.5 and is not carried out by this version."""
        if method.kind == "cast" and "instance" in method.args:
            self._accept("unsupported", context, {**args, "method": method.name})
        raise NotImplementedError(f"{method.name} is not implemented by this compute service")


def _endpoint_method(handlers: Handlers, method: Method) -> Callable[..., Any]:
    own: Handler | None = getattr(handlers, method.name, None)

    def serve(context: Any, **args: Any) -> Any:
        try:
            method.check(args)
            values = as_dict(context)
            if own is not None:
                method.check_types(args)
                return own(values, args)
            return handlers.unsupported(method, values, args)
        except MagnetarError as error:
            level = logging.INFO if isinstance(error, Refused) else logging.WARNING
            LOG.log(level, "%s: %s", method.name, error)
            raise to_nova(error) from error
        except NotImplementedError as error:
            LOG.info("%s", error)
            raise
        except Exception:  # nobody hears of a cast's error but the log
            LOG.exception("%s met an error of a kind it should not.", method.name)
            raise

    serve.__name__ = method.name
    return messaging.expected_exceptions(Exception)(serve)


class ComputeEndpoint:
    """All methods of 6.5 as attributes, made from the table in compute.rpc.contract."""

    target = messaging.Target(version=VERSION)

    def __init__(self, handlers: Handlers):
        for method in METHODS.values():
            setattr(self, method.name, _endpoint_method(handlers, method))


class BaseEndpoint:
    """Namespace ``baseapi``: is somebody there?"""

    target = messaging.Target(namespace="baseapi", version="1.1")

    def __init__(self, service: str):
        self.service = service

    def ping(self, context: Any, arg: Any) -> dict[str, Any]:
        return {"service": self.service, "arg": arg}

    def get_backdoor_port(self, context: Any) -> None:
        """There is no backdoor."""
        return


class OperatorEndpoint:
    """Namespace ``magnetar`` 1.0: the operator's verbs, the same as on the control socket."""

    target = messaging.Target(namespace="magnetar", version="1.0")

    def __init__(self, methods: Mapping[str, Callable[..., Any]]):
        for name, function in methods.items():
            setattr(self, name.replace(".", "_"), _operator_method(function))


def _operator_method(function: Callable[..., Any]) -> Callable[..., Any]:
    def serve(context: Any, **args: Any) -> Any:
        try:
            return {"result": function(**args)}
        except MagnetarError as error:
            return {"error": error.to_dict()}

    return serve


class Server:
    """The RPC servers of one agent: topics ``compute`` and ``compute-alt``, server = host."""

    def __init__(self, transport: Any, serializer: Any, host: str, manager: Manager,
                 operator: Mapping[str, Callable[..., Any]]):
        endpoints = [ComputeEndpoint(Handlers(manager)), BaseEndpoint("compute"),
                     OperatorEndpoint(operator)]
        self._servers = [
            messaging.get_rpc_server(
                transport, messaging.Target(topic=topic, server=host), endpoints,
                serializer=serializer, access_policy=messaging.DefaultRPCAccessPolicy)
            for topic in TOPICS
        ]

    def start(self) -> None:
        """Begin to take messages."""
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Take no more messages; what was taken is in the journal."""
        for server in self._servers:
            server.stop()
        for server in self._servers:
            server.wait()
