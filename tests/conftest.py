"""What every test file builds on: the models of `espnet_ext.testing`, the strategies and their variants, fixtures."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from espnet_ext.decoding import strategies
from espnet_ext.registry import Registry
from espnet_ext.testing.models import (  # noqa: F401 (test files import them from here)
    NAMES,
    PRIMARIES,
    SAMPLING,
    SPEC,
    TEXT_VOCAB,
    Batch,
    assert_rows_are_their_own,
    decode,
    enliven,
    make_ends_likely,
    ragged_batch,
    shared_model,
    tiny_model,
)

pytest_plugins = ["fabricated", "fabricated_tokens"]

# a library for archives, whichever is there: pytest.importorskip(ARCHIVES)
ARCHIVES = next((name for name in ("kaldiio", "omniio") if find_spec(name)), "omniio")

# options that take another path through a strategy than its defaults do
VARIANTS = [
    ("local_maskgit", {"order": "confidence"}),
    ("local_maskgit", {"order": "left_to_right", "n_rounds": 2}),
    ("local_maskgit", {"order": "frames", "noise": 0.5, "n_rounds": 4}),
    ("local_maskgit", {"noise": 0.5, "n_rounds": 4}),
    ("local_maskgit", {"n_rounds": 1}),
    ("local_maskgit", {"n_rounds": 99}),
    ("local_maskgit_adaptive", {"threshold": 0.0}),
    ("local_maskgit_adaptive", {"threshold": 0.4, "min_codes": 2, "max_codes": 3}),
    ("local_maskgit_adaptive", {"threshold": 1.1, "n_rounds": 99}),
    ("local_speculative", {"acceptance": "exact"}),
]

registered = pytest.mark.parametrize("name", list(strategies))
every_variant = pytest.mark.parametrize(
    ("name", "conf"), VARIANTS, ids=["-".join([name, *map(str, conf.values())]) for name, conf in VARIANTS]
)


def built_in(registry: Registry[type]) -> list[str]:
    """Names of this package's own classes: those of plug-ins that happen to be installed are left out."""
    return [name for name in registry if registry[name].__module__.startswith("espnet_ext.")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run a whole recipe come first: processes that share the tests then end at about the same time."""
    long = {item.path for item in items if item.get_closest_marker("recipe")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(params=list(PRIMARIES))
def primary(request: pytest.FixtureRequest) -> str:
    """Every primary transformer, learned positions included."""
    return str(request.param)


@pytest.fixture(params=[1, 2, 3, 4])
def stacking(request: pytest.FixtureRequest) -> int:
    """Frames per step."""
    return int(request.param)
