"""Predictors of opinion scores by name; each turns an audio file into one or more numbers.

A new one is a file here, or in another package that announces it in the entry-point group espnet_ext.mos.
"""

from espnet_ext.scoring.evaluators.mos.base import OpinionPredictor, mos_predictors, register_mos
from espnet_ext.scoring.evaluators.mos.dnsmos import DNSMOS
from espnet_ext.scoring.evaluators.mos.utmos import UTMOS
from espnet_ext.scoring.evaluators.mos.versa import Versa

__all__ = ["DNSMOS", "UTMOS", "OpinionPredictor", "Versa", "mos_predictors", "register_mos"]
