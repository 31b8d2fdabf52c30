"""Which sampling to try, on what, and which to take."""

from espnet_ext.tuning.candidates import Choice, Grid, Tried, choose, search

__all__ = ["Choice", "Grid", "Tried", "choose", "search"]
