"""Says things over a broker that is away, and prints how each ended; in a process of its own, since
the messaging library never stops trying. Argument: the transport's URL."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import oslo_messaging
from oslo_config import cfg

from compute import conf as configuration
from compute.errors import MagnetarError
from compute.operator.doctor import examine
from compute.rpc.conductor import ConductorClient
from compute.rpc.peer import PeerClient
from compute.rpc.serializer import ContextSerializer
from control.messages import Computes

SECONDS, MANY = 2.0, 80


def ended(func: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """How a call ended, and after how many seconds."""
    began = time.monotonic()
    try:
        return {"result": func(*args, **kwargs), "seconds": time.monotonic() - began}
    except MagnetarError as error:
        return {"code": error.code, "what": error.what, "seconds": time.monotonic() - began}


def main(url: str) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    configuration.register(cfg.CONF)
    cfg.CONF([], project="magnetar", default_config_files=[])
    transport, serializer = oslo_messaging.get_rpc_transport(cfg.CONF, url), ContextSerializer()
    conductor = ConductorClient(transport, serializer, "host", SECONDS)
    peers, computes = PeerClient(transport, serializer), Computes(transport, SECONDS)
    found = {
        "ping": ended(conductor.ping, SECONDS),
        "call": ended(conductor.instance, {}, "uuid"),
        "cast": ended(conductor.build_instances, {}),
        "peer": ended(peers.ask, "other", "peer_storage", seconds=2),
        "control cast": ended(computes.cast, {}, "other", "stop_instance"),
        "control call": ended(computes.call_own, {}, "other", "peer_storage"),
        "doctor": ended(examine, {"control plane": lambda: conductor.ping(SECONDS)}),
    }
    many: list[dict[str, Any]] = []
    threads = [threading.Thread(daemon=True,
                                target=lambda: many.append(ended(conductor.instances, {})))
               for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"one": found, "many": many}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])), flush=True)
