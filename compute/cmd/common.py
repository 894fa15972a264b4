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

from oslo_config import cfg

from compute import conf as configuration
from compute.agent import Agent, Stopping, lock_state
from compute.errors import MagnetarError

LOG = logging.getLogger(__name__)
GRACE = 10.0  # seconds beyond those that operations get; with these below TimeoutStopSec


def prepare(argv: Sequence[str], prog: str) -> Any:
    """Read the configuration and set up logging; ends the process when an option is wrong."""
    from oslo_log import log

    conf = configuration.parse(argv, prog)
    try:
        for module in configuration.MODULES:
            options = conf[module.GROUP] if module.GROUP else conf
            for option in module.OPTS:
                getattr(options, option.dest)  # a wrong value is told now, not where it is used
    except cfg.ConfigFileValueError as error:
        print(f"{prog}: The configuration is wrong. {error}. It did not start; guests were not "
              "touched. Correct the option, then start it again.", file=sys.stderr)
        sys.exit(1)
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
        if not told.is_set():
            rest = agent[0].conf.timeouts.stop if agent and agent[0].serving else 0
            _end_all_the_same(rest + GRACE)
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


def _end_all_the_same(seconds: float) -> None:
    """End the process if it has not ended by then: oslo.messaging, for one, waits for a broker
    without a deadline. Nothing is lost; the journal knows what was going on."""
    def end(number: int, frame: Any) -> None:
        print(f"magnetar: It did not end in an orderly way within {seconds:.0f} s, as when the "
              "broker cannot be reached, and ends all the same. The journal knows what was going "
              "on; it goes on at the next start.", file=sys.stderr, flush=True)
        os._exit(1)

    # Not a thread: none can be started in a handler that interrupts eventlet's own loop.
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


__all__ = ["Agent", "lock_state", "prepare", "serve", "transport_for"]
