"""Handler of cache_images: images are brought to this host before a guest needs them."""

from __future__ import annotations

import logging

from compute.engine.world import World
from compute.errors import MagnetarError, Retryable
from compute.manager import Manager
from compute.model import wire

LOG = logging.getLogger(__name__)
CACHED, EXISTING, ERROR = "cached", "existing", "error"  # Nova's words


class CacheHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    manager: Manager
    world: World

    def cache_images(self, context, args) -> dict[str, str]:
        """Fetch images one after the other; what became of each. It is no operation: a cache needs
        no undo, and what is half fetched is swept."""
        wanted = args["image_ids"]
        if not all(isinstance(image_id, str) and image_id for image_id in wanted):
            raise wire.malformed("Argument 'image_ids' has to be a list of ids.")
        return {image_id: self._cache(image_id) for image_id in wanted}

    def _cache(self, image_id: str) -> str:
        driver, fetches = self.world.driver, self.world.fetches

        def progress(done: int, total: int) -> None:
            fetches[image_id] = (done, total)

        try:
            image = self.world.images.show(image_id)
            if driver.cached_image(image) is not None:
                return EXISTING
            progress(0, image.size)
            driver.fetch_image(image, self.world.images, progress, self._cancel)
            return CACHED
        except MagnetarError as error:
            LOG.warning("Image %s is not cached: %s", image_id, error)
            return ERROR
        finally:
            fetches.pop(image_id, None)

    def _cancel(self) -> None:
        """Raise Retryable when this agent stops."""
        if self.manager.resting:
            raise Retryable("The agent stops.", now="What was fetched of the image is discarded.",
                            next="Ask again when it is back.", code="stopping")
