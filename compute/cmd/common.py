"""What both entry points share: options, logging, signals, and an orderly end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from compute import conf as configuration
from compute.agent import Agent, Stopping, lock_state
from compute.errors import MagnetarError

LOG = logging.getLogger(__name__)


def prepare(argv: Sequence[str], prog: str) -> Any:
    """Read the configuration and set up logging."""
    from oslo_log import log

    conf = configuration.parse(argv, prog)
    log.set_defaults(default_log_levels=[
        "oslo.messaging=WARNING", "oslo_messaging=WARNING", "amqp=WARNING", "kombu=WARNING",
        "sqlalchemy=WARNING", "alembic=WARNING", "stevedore=WARNING", "oslo_log=WARNING"])
    log.setup(conf, "magnetar")
    return conf


def transport_for(conf: Any, otherwise: str | None = None) -> Any:
    """The RPC transport, on Nova's exchange.

    :param otherwise: the URL to use when no broker is configured.
    """
    import oslo_messaging

    oslo_messaging.set_transport_defaults("nova")
    configured = oslo_messaging.TransportURL.parse(conf)
    url = otherwise if configured.transport == "rabbit" and not configured.hosts else None
    return oslo_messaging.get_rpc_transport(conf, url=url)


def serve(make: Callable[[], Agent], after: Callable[[], None] = lambda: None) -> int:
    """Run an agent until SIGTERM or SIGINT; returns the process's exit code.

    :param after: called when the agent has stopped.
    """
    told = threading.Event()
    agent: list[Agent] = []

    def tell(number: int, frame: Any) -> None:
        told.set()
        if agent:
            agent[0].give_up()

    signal.signal(signal.SIGTERM, tell)
    signal.signal(signal.SIGINT, tell)
    code = 0
    try:
        agent.append(make())
        if not told.is_set():
            agent[0].start()
            while not told.wait(1.0):
                pass
    except Stopping:
        pass
    except MagnetarError as error:
        print(f"magnetar: {error}", file=sys.stderr)
        LOG.error("%s", error)
        code = 1
    except Exception:
        # Said here: the hook that oslo.log sets for it would find its handlers shut down.
        traceback.print_exc()
        LOG.exception("The agent ends: an error that it does not know.")
        code = 1
    finally:
        for one in agent:
            one.stop()
        after()
        logging.shutdown()
    # A native call that hangs (in libvirt, say) must not hold the exit: the journal knows it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


__all__ = ["Agent", "lock_state", "prepare", "serve", "transport_for"]
