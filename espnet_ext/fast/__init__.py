"""The fast path of decoding; the model as it was trained is its oracle."""

from espnet_ext.fast.accelerate import Acceleration, accelerate
from espnet_ext.fast.linear import PRECISIONS, LinearBackend, linear_backends

__all__ = ["PRECISIONS", "Acceleration", "LinearBackend", "accelerate", "linear_backends"]
