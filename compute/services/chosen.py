"""Which adapter of each port the configuration chooses. Those that speak to other services over
HTTP are imported only then."""

from __future__ import annotations

from typing import Any

from compute.services.images import LocalImages
from compute.services.networks import EmbeddedNetworks, NoNetworks
from compute.services.volumes import EmbeddedVolumes, NoVolumes


def images(conf: Any) -> Any:
    """A :class:`compute.engine.world.Images`."""
    if conf.image_service == "glance":
        from compute.services.glance import Glance

        return Glance(conf)
    return LocalImages(conf.image_dir)


def networks(conf: Any, conductor: Any, host: str) -> Any:
    """A :class:`compute.engine.world.Networks`."""
    if conf.network_service == "embedded":
        return EmbeddedNetworks(conductor, host)
    if conf.network_service == "neutron":
        from compute.services.neutron import Neutron

        return Neutron(conf, host)
    return NoNetworks()


def providers(conf: Any) -> Any:
    """A :class:`compute.resources.providing.Providers`, or None."""
    if conf.inventory_service == "placement":
        from compute.services.placement import Placement

        return Placement(conf)
    return None


def volumes(conf: Any, conductor: Any) -> Any:
    """A :class:`compute.engine.world.Volumes`."""
    if conf.volume_service == "embedded":
        return EmbeddedVolumes(conductor)
    if conf.volume_service == "cinder":
        from compute.services.cinder import Cinder

        return Cinder(conf)
    return NoVolumes()
