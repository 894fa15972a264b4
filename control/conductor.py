"""What Nova's conductor answers to its computes: RPC 3.0 on topic ``conductor``.

Objects stay plain dicts; :mod:`control.objects` has the methods. Each call is one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging
from sqlalchemy.exc import IntegrityError

from compute.errors import MagnetarError
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import wire
from control.objects import (
    CLASS_METHODS,
    METHODS,
    Call,
    consoles,
    hosts,
    instances,
    migrations,
    records,
)
from control.wire import failure
from db.control.store import Store

LOG = logging.getLogger(__name__)
TOPIC = "conductor"
# importing them registers their methods
FAMILIES = (consoles, hosts, instances, migrations, records)


def expected(work: Callable[[], Any]) -> Any:
    """Run ``work``; an error that belongs to the contract goes to the caller without a traceback
    in our log."""
    try:
        return work()
    except (MagnetarError, IntegrityError) as error:
        LOG.info("Refused: %s", error)
        raise oslo_messaging.ExpectedException() from error
    except Exception as error:
        if type(error).__module__ == "nova.exception":
            raise oslo_messaging.ExpectedException() from error
        raise


class BaseApi:
    """Namespace ``baseapi``: is anybody there?"""

    target = oslo_messaging.Target(namespace="baseapi", version="1.1")

    def ping(self, context: Context, arg: Any) -> dict[str, Any]:
        """Answer with the argument."""
        return {"service": TOPIC, "arg": arg}

    def get_backdoor_port(self, context: Context) -> None:
        """There is no backdoor."""


class Conductor:
    """The three methods through which a compute service reads and writes objects."""

    target = oslo_messaging.Target(version="3.0")

    def __init__(self, store: Store):
        self.store = store

    def object_class_action_versions(
        self,
        context: Context,
        objname: str,
        objmethod: str,
        object_versions: Mapping[str, str],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a method of a class. The result is no newer than ``object_versions`` says."""

        def work() -> Any:
            function = self._find(CLASS_METHODS, objname, objmethod)
            with self.store.begin() as connection:
                result = self._apply(function, objmethod, Call(connection, context), args, kwargs)
            return self._backport(result, object_versions)

        return expected(work)

    def object_action(
        self,
        context: Context,
        objinst: dict[str, Any],
        objmethod: str,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> list[Any]:
        """Call a method of an object. Returns [updates for the caller's copy, result]."""

        def work() -> list[Any]:
            if not primitives.is_object(objinst):
                raise failure(
                    "ObjectActionError",
                    f"Object action {objmethod} failed because: this is not an object."
                )
            function = self._find(METHODS, objinst[primitives.NAME], objmethod)
            with self.store.begin() as connection:
                call = Call(connection, context)
                return list(self._apply(function, objmethod, call, [objinst, *args], kwargs))

        return expected(work)

    def object_backport_versions(
        self, context: Context, objinst: dict[str, Any], object_versions: Mapping[str, str]
    ) -> dict[str, Any]:
        """The object at the versions that the caller knows."""
        return expected(lambda: self._backport(objinst, object_versions, force=True))

    @staticmethod
    def _find(registry: Mapping[str, Callable], objname: str, objmethod: str) -> Callable:
        function = registry.get(f"{objname}.{objmethod}")
        if function is not None:
            return function
        if objname not in wire.VERSIONS:
            raise failure("UnsupportedObjectError", f"Unsupported object type {objname}")
        raise failure(
            "ObjectActionError",
            f"Object action {objmethod} failed because: this control plane has no "
            f"{objname}.{objmethod}.",
            action=objmethod, reason="not offered",
        )

    @staticmethod
    def _apply(
        function: Callable, objmethod: str, call: Call, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return function(call, *args, **kwargs)
        except (TypeError, KeyError) as error:
            LOG.warning("A malformed call of %s", objmethod, exc_info=True)
            raise failure(
                "ObjectActionError",
                f"Object action {objmethod} failed because: an argument is missing or wrong "
                f"({error!r}).",
                action=objmethod, reason=repr(error),
            ) from error

    @staticmethod
    def _backport(result: Any, manifest: Mapping[str, str] | None, force: bool = False) -> Any:
        if not (force or wire.needs_backport(manifest)):
            return result
        try:
            return wire.backport(result, manifest or {})
        except ValueError as error:
            raise failure("IncompatibleObjectVersion", str(error)) from error
