"""How keys and values of earlier positions are kept; importing this package registers the policies."""

from espnet_ext.model.caches.base import EXACT, CachePolicy, Exact, build_cache, register_cache
from espnet_ext.model.caches.gear import Gear
from espnet_ext.registries import caches

__all__ = [
    "EXACT",
    "CachePolicy",
    "Exact",
    "Gear",
    "build_cache",
    "caches",
    "register_cache",
]
