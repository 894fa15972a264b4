"""os-brick, set up once: its lock path, its rights, and a deadline on whatever it does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any

from oslo_config import cfg

from compute.errors import Failed, MagnetarError, Retryable, Unknown

WORKERS = 8
# What os-brick raises for things that another attempt may find well.
PASSING = ("TargetPortalNotFound", "TargetPortalsNotFound", "FailedISCSITargetPortalLogin",
           "VolumeDeviceNotFound", "VolumePathsNotFound", "VolumePathNotRemoved",
           "NoFibreChannelVolumeDeviceFound", "ExceptionChainer", "MultipathdPathsNotRemoved",
           "ProcessExecutionError", "LockException")  # fmt: skip


class Library:
    """:param options: the group [libvirt]. Imported when it is first needed, and not before."""

    def __init__(self, options: Any, state_path: str):
        self._options, self._state_path = options, state_path
        self._pool = ThreadPoolExecutor(WORKERS, "volume")
        self._ready: Any = None

    def connector(self, protocol: str, **more: Any) -> Any:
        """os-brick's connector for a protocol. Raises Failed for one that it does not know."""
        factory = self._module().InitiatorConnector.factory
        options = self._options
        try:
            return factory(protocol, options.volume_root_helper,
                           use_multipath=options.volume_use_multipath,
                           device_scan_attempts=options.num_volume_scan_tries, **more)  # fmt: skip
        except ValueError as error:
            raise Failed(
                f"Volumes of type {protocol} cannot be connected: {error}.",
                now="Nothing was connected.",
                next="Use a volume type whose protocol this host knows.",
                code="volume_unsupported",
            ) from error
        except Exception as error:  # such as of one that needs a file of its vendor
            raise _translated(error, f"prepare for volumes of type {protocol}") from error

    def properties(self, address: str, host: str) -> dict[str, Any]:
        """What this host is, for the volume service."""
        options, module = self._options, self._module()
        return self.run("look at this host's initiators", lambda: module.get_connector_properties(
            options.volume_root_helper, address, options.volume_use_multipath,
            options.volume_enforce_multipath, host=host))  # fmt: skip

    def run(self, doing: str, work: Callable[[], Any]) -> Any:
        """Let os-brick do something.

        :raises Unknown: it did not come back in time.
        :raises Retryable: it did not work now.
        :raises Failed: it cannot work.
        """
        seconds = self._options.volume_timeout
        future = self._pool.submit(work)
        try:
            return future.result(seconds)
        except TimeoutError as error:
            if future.done():  # its own, such as a command that took too long
                raise _unknown(doing, "a command of it did not end") from error
            raise _given_up(future, doing, seconds) from error
        except MagnetarError:
            raise
        except Exception as error:
            raise _translated(error, doing) from error

    def _module(self) -> Any:
        if self._ready is None:
            try:
                import os_brick
                from os_brick import privileged
                from os_brick.initiator import connector
                from oslo_privsep import priv_context
            except ImportError as error:
                raise Failed(
                    f"This kind of volume needs os-brick, which is not installed ({error}).",
                    now="Nothing was connected.",
                    next="Install it into the agent's environment: pip install magnetar[volumes].",
                    code="volume_library_missing",
                ) from error
            self._set_up(os_brick, privileged, priv_context)
            self._ready = connector
        return self._ready

    def _set_up(self, os_brick: Any, privileged: Any, priv_context: Any) -> None:
        os_brick.setup(cfg.CONF)
        if not cfg.CONF.os_brick.lock_path:
            path = os.path.join(self._state_path, "locks")
            cfg.CONF.set_default("lock_path", path, "os_brick")
        os.makedirs(cfg.CONF.os_brick.lock_path, 0o755, exist_ok=True)
        if os.geteuid() == 0:
            privileged.default.set_client_mode(False)  # no helper is needed for what we may do
        else:
            priv_context.init(root_helper=shlex.split(self._options.volume_root_helper))


def _given_up(future: Future, doing: str, seconds: float) -> MagnetarError:
    if future.cancel():
        return Retryable(
            f"The host could not begin to {doing} within {seconds:g} s: others wait as well.",
            now="Nothing was done.",
            next="See whether the storage answers: 'magnetar doctor', 'dmesg', 'multipath -ll'.",
            code="volume_busy",
        )
    return _unknown(doing, f"it took longer than {seconds:g} s")


def _unknown(doing: str, why: str) -> Unknown:
    return Unknown(
        f"The host did not {doing}: {why}.",
        now="It may still come about; nothing else is done with this volume meanwhile.",
        next="It is tried again; if it stays so, see whether the storage answers.",
        code="volume_timeout",
    )


def _translated(error: Exception, doing: str) -> MagnetarError:
    names = {cls.__name__ for cls in type(error).__mro__}
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if names & {"ExecutionTimeout", "TimeoutExpired"}:
        return _unknown(doing, text)
    if names & set(PASSING) or isinstance(error, OSError):
        return Retryable(
            f"The host could not {doing}: {text}.",
            now="What was begun may be left over, and is taken away with the next attempt.",
            next="It is tried again; see whether the storage can be reached from this host.",
            code="volume_unreachable",
        )
    return Failed(
        f"The host could not {doing}: {text}.",
        now="Nothing is connected.",
        next="Look at the volume's type and back-end in the volume service.",
        code="volume_failed",
    )
