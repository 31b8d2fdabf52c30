"""How fast, and how exact, a model is to decode on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_ext.defaults import PRECISION_CHOICES
from espnet_ext.errors import UserError
from espnet_ext.options import check_choice


@dataclass(frozen=True)
class FastOptions:
    """What may be done to a model for the sake of speed.

    Attributes:
        precision: of the weights that a step reads, or "auto" for whatever is fastest here.
        exact: keep to float32, whatever is faster.
        native: run steps in the native kernel on a CPU, compiled at first use.
        compile: have torch.compile make the kernels of a step.
        graphs: on a GPU, run a whole step as one CUDA graph.

    Raises:
        UserError: naming the option that is wrong.
    """

    precision: str = "auto"
    exact: bool = False
    native: bool = False
    compile: bool = False
    graphs: bool = True

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISION_CHOICES)
        if self.exact and self.precision not in ("float32", "auto"):
            raise UserError(f"precision must be float32 or auto with exact, got {self.precision!r}")
        if self.native and self.compile:
            raise UserError("compile must be false with native, got true: the kernel is compiled already")
