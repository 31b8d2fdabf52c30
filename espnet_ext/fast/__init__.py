"""The fast path of decoding; the model as it was trained is its oracle."""

from espnet_ext.defaults import PRECISIONS
from espnet_ext.fast.accelerate import Acceleration, accelerate
from espnet_ext.fast.linear import LinearBackend, linear_backends
from espnet_ext.fast.options import FastOptions

__all__ = ["PRECISIONS", "Acceleration", "FastOptions", "LinearBackend", "accelerate", "linear_backends"]
