"""Configuration: one module per option group, each with ``GROUP``, ``OPTS`` and ``register``.

The global ``cfg.CONF`` is used on purpose: oslo.messaging registers its tracing and metrics
options only there, and every call fails with a private ConfigOpts.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

from oslo_config import cfg

from compute.conf import (
    agent,
    cinder,
    compute,
    consoleauth,
    control,
    disk,
    glance,
    image_cache,
    libvirt,
    metrics,
    migration,
    moves,
    neutron,
    pci,
    placement,
    resources,
    serial_console,
    spice,
    timeouts,
    vnc,
    volumes,
)

MODULES = (agent, moves, resources, timeouts, compute, disk, libvirt, volumes, migration, vnc,
           spice, serial_console, consoleauth, metrics, pci, image_cache, control, cinder, glance,
           neutron, placement)
CONF = cfg.CONF


def register(conf: cfg.ConfigOpts) -> None:
    """Register all of Magnetar's options; may be called again."""
    for module in MODULES:
        conf.register_opts(module.OPTS, group=module.GROUP)


def parse(args: Sequence[str], prog: str = "magnetar") -> cfg.ConfigOpts:
    """Read the command line and configuration files into the global CONF.

    :raises SystemExit: with a sentence about the file or option that is wrong.
    """
    from oslo_log import log

    register(CONF)
    log.register_options(CONF)
    try:
        CONF(args=list(args), project="magnetar", prog=prog, default_config_files=None)
    except cfg.Error as error:
        raise SystemExit(
            f"The configuration cannot be read: {error}. Nothing was started. "
            "Correct the file or option named above and start again."
        ) from error
    CONF.set_default("host", socket.gethostname())
    return CONF


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """All options by group, for oslo-config-generator."""
    grouped = itertools.groupby(
        sorted(MODULES, key=lambda m: m.GROUP or ""), key=lambda m: m.GROUP
    )
    return [
        (group, [opt for module in modules for opt in module.OPTS]) for group, modules in grouped
    ]
