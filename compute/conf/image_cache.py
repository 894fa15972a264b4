"""[image_cache]: images that are brought to hosts before they are needed."""

from oslo_config import cfg

GROUP = "image_cache"

OPTS = [
    cfg.IntOpt(
        "precache_concurrency",
        default=1,
        min=1,
        help="How many hosts fetch images at once for 'image cache'. Each fetches one image after "
        "the other. Option of the control plane; it means the same as Nova's.",
    ),
]
