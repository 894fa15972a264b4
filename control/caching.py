"""Images that hosts fetch before a server needs them, as Nova's aggregates let them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compute.errors import MagnetarError
from compute.model.guest import Image
from control.common import context_for
from control.messages import Computes
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
QUEUED, FETCHING, ERROR = "queued", "fetching", "error"
KEPT = 1000  # of what has ended, so many are remembered


class Caching:
    """Mixin of :class:`control.api.ControlPlane`. What goes on is kept in memory: a control plane
    that is started again has forgotten it, while hosts go on with what they were told."""

    conf: Any
    computes: Computes
    # given by the other parts of the control plane
    host_show: Callable[[str], Row]
    _usable_image: Callable[[str], Image]

    def _open_cache(self) -> None:
        self._caching: dict[tuple[str, str], Row] = {}
        self._cache_guard = threading.Lock()
        self._cache_pool = ThreadPoolExecutor(self.conf.image_cache.precache_concurrency,
                                              thread_name_prefix="image-cache")

    def image_cache(self, hosts: Sequence[str], images: Sequence[str]) -> list[Row]:
        """Let hosts fetch images, [image_cache] precache_concurrency of them at once; it goes on
        when this returns. What goes on already is not begun again. Returns how each stands.

        :raises Refused: no such host or image, or it is not active; nothing was begun.
        """
        names = list(dict.fromkeys(self.host_show(host)["host"] for host in hosts))
        wanted = list({image.id: image for image in map(self._usable_image, images)}.values())
        for name in names:
            begun = [image.id for image in wanted if self._note(name, image)]
            if begun:
                self._cache_pool.submit(self._cache_on, name, begun)
        keys = {(name, image.id) for name in names for image in wanted}
        with self._cache_guard:
            return [dict(self._caching[key]) for key in sorted(keys)]

    def image_cache_list(self) -> list[Row]:
        """What hosts fetch or have fetched, with how far they are where they tell."""
        with self._cache_guard:
            found = [dict(row) for row in self._caching.values()]
        for host in {row["host"] for row in found if row["state"] == FETCHING}:
            with contextlib.suppress(MagnetarError):  # it is shown what is known
                told = self.computes.call_own(context_for(), host, "image_fetches")
                for row in found:
                    if row["host"] == host and row["state"] == FETCHING:
                        row["done"], row["total"] = told.get(row["image_id"], (None, None))
        return found

    def _note(self, host: str, image: Image) -> bool:
        """Whether it has to be begun."""
        with self._cache_guard:
            old = self._caching.pop((host, image.id), None)
            goes_on = old is not None and old["state"] in (QUEUED, FETCHING)
            self._caching[host, image.id] = old if old is not None and goes_on else {
                "host": host, "image_id": image.id, "image": image.name or image.id,
                "state": QUEUED, "error": None, "done": None, "total": None,
                "updated_at": utcnow().isoformat()}
            ended = [key for key, row in self._caching.items()
                     if row["state"] not in (QUEUED, FETCHING)]
            for key in ended[:-KEPT]:
                del self._caching[key]
            return not goes_on

    def _set(self, host: str, image: str, state: str, error: str | None = None) -> None:
        with self._cache_guard:
            self._caching[host, image].update(
                state=state, error=error, updated_at=utcnow().isoformat())

    def _cache_on(self, host: str, images: Sequence[str]) -> None:
        """One image after the other, so that each is seen to be done when it is."""
        for image in images:
            self._set(host, image, FETCHING)
            try:
                told = self.computes.call_long(context_for(), host, "cache_images",
                                               image_ids=[image])
                state = told.get(image, ERROR)
                why = f"Host {host} could not fetch it; its log says why." \
                    if state == ERROR else None
                self._set(host, image, state, why)
            except MagnetarError as error:
                LOG.warning("Image %s on host %s: %s", image, host, error)
                self._set(host, image, ERROR, str(error))
            except Exception as error:
                LOG.exception("Image %s on host %s is not cached.", image, host)
                self._set(host, image, ERROR, repr(error))
