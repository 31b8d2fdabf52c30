"""What is wrong with files that are there, and what mends it: whoever owns a format is asked, and judges alone."""

from espnet_ext.doctor.checkup import Checkup, Finding
from espnet_ext.doctor.places import check_tree

__all__ = ["Checkup", "Finding", "check_tree"]
