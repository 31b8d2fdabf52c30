"""Integers only: the ids of a codec, the slots of steps that frames fill, length masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.options import check_number

# more than any codec has, and less than would fill the memory
MOST = {"num_codebooks": 1024, "codebook_size": 2**24, "frame_rate_hz": 1e6, "sample_rate_hz": 10**7}


@dataclass(frozen=True)
class CodecSpec:
    """The facts of a codec that a language model needs, and the only home of special ids.

    Attributes:
        num_codebooks: N, codes of one frame.
        codebook_size: entries of one codebook, specials not counted.
        frame_rate_hz: codec frames per second.
        sample_rate_hz: samples per second of the waveform.

    >>> spec = CodecSpec(num_codebooks=8, codebook_size=1024, frame_rate_hz=75.0, sample_rate_hz=24000)
    >>> spec.bos_id, spec.eos_id, spec.mask_id, spec.vocab_size
    (1024, 1025, 1026, 1027)
    """

    num_codebooks: int
    codebook_size: int
    frame_rate_hz: float
    sample_rate_hz: int

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            check_number(name, getattr(self, name), above=0, most=most, whole=name != "frame_rate_hz")

    @property
    def bos_id(self) -> int:
        """Fills the S frames in front of an utterance."""
        return self.codebook_size

    @property
    def eos_id(self) -> int:
        """Fills the one frame that ends an utterance."""
        return self.codebook_size + 1

    @property
    def mask_id(self) -> int:
        """A slot that is not known yet."""
        return self.codebook_size + 2

    @property
    def vocab_size(self) -> int:
        """V, rows of every codebook's embedding table and outputs of every head."""
        return self.codebook_size + 3

    def check(self, codes: Tensor) -> None:
        """Refuse codes that cannot come from this codec.

        Args:
            codes: (..., N) integers.

        Raises:
            UserError: if the last axis is not N or an id is outside the codebook.
        """
        if codes.shape[-1] != self.num_codebooks:
            raise UserError(
                f"codes must have {self.num_codebooks} codebooks in the last axis, got shape {tuple(codes.shape)}"
            )
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size):
            raise UserError(
                f"codes must lie in [0, {self.codebook_size}), got [{int(codes.min())}, {int(codes.max())}]"
            )


def length_mask(lengths: Tensor, max_length: int) -> Tensor:
    """True where a position exists: (B, max_length) bool.

    Args:
        lengths: (B,) int64.
        max_length: width of the mask.

    Returns:
        The mask.

    >>> length_mask(torch.tensor([1, 3]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]


def num_steps(lengths: Tensor, factor: int) -> Tensor:
    """Steps that hold so many frames, ceil(T / S), same shape as `lengths`."""
    return (lengths + factor - 1) // factor


def stack_frames(codes: Tensor, factor: int, fill_id: int) -> Tensor:
    """Codes regrouped into steps: (B, L, M), the last step completed with `fill_id`.

    Args:
        codes: (B, T, N) int64.
        factor: S, frames per step.
        fill_id: id of the slots that no frame fills.

    Returns:
        (B, ceil(T / S), S * N) int64, frame-major.

    Raises:
        UserError: if `factor` is less than 1.

    >>> stack_frames(torch.tensor([[[1, 2], [3, 4], [5, 6]]]), factor=2, fill_id=0).tolist()
    [[[1, 2, 3, 4], [5, 6, 0, 0]]]
    """
    if factor < 1:
        raise UserError(f"frame_stacking_factor must be at least 1, got {factor}")
    batch, frames, codebooks = codes.shape
    missing = -frames % factor
    padded = nn.functional.pad(codes, (0, 0, 0, missing), value=fill_id)
    return padded.reshape(batch, -1, factor * codebooks)


def unstack_frames(steps: Tensor, factor: int) -> Tensor:
    """Steps taken apart into frames: (B, L * S, N); the inverse of `stack_frames` up to the fill.

    Args:
        steps: (B, L, M) int64.
        factor: S, frames per step.

    Returns:
        (B, L * S, M / S) int64.
    """
    batch, length, slots = steps.shape
    return steps.reshape(batch, length * factor, slots // factor)


@dataclass(frozen=True)
class StepLayout:
    """Where the codes of frames lie in the steps of the primary transformer.

    Slot m = s * N + n of step l holds codebook n of frame l * S + s - delays[n].

    Attributes:
        codebooks: N.
        stacking: S.
        delays: frames by which each codebook comes late; empty for none.

    Raises:
        UserError: if the delays are not one per codebook, the first is not 0, one is negative, or S > 1 is to be
            combined with a delay.

    Reference:
        Copet et al. 2023, arXiv:2306.05284, "delay pattern"; stacking: arXiv:2509.19592.

    >>> layout = StepLayout(codebooks=2, delays=(0, 1))
    >>> layout.to_steps(torch.tensor([[[1, 2], [3, 4], [5, 6]]]), before_id=-1, after_id=9)[0].T.tolist()
    [[1, 3, 5, 9], [-1, 2, 4, 6]]
    """

    codebooks: int
    stacking: int = 1
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.stacking < 1:
            raise UserError(f"frame_stacking_factor must be at least 1, got {self.stacking}")
        if not self.delays:
            return
        whole = all(type(delay) is int and delay >= 0 for delay in self.delays)
        if len(self.delays) != self.codebooks or not whole or self.delays[0] != 0:
            raise UserError(
                f"delays must be {self.codebooks} whole numbers, the first 0 and none negative, got {list(self.delays)}"
            )
        if self.stacking > 1 and self.max_delay:
            raise UserError(f"frame_stacking_factor must be 1 with delays {list(self.delays)}, got {self.stacking}")

    @property
    def slots(self) -> int:
        """M, codes of one step."""
        return self.stacking * self.codebooks

    @property
    def max_delay(self) -> int:
        """Frames by which the last codebook comes late."""
        return max(self.delays, default=0)

    def num_steps(self, lengths: Tensor) -> Tensor:
        """Steps until every code of so many frames is out, same shape as `lengths`."""
        return num_steps(lengths, self.stacking) + self.max_delay

    def frames(self, step: int, device: torch.device | None = None) -> Tensor:
        """Frame of every slot of a step: (M,) int64, negative before a late codebook's first frame."""
        frames = torch.arange(step * self.stacking, (step + 1) * self.stacking, device=device)
        if not self.max_delay:  # without a tensor from the host, for which a GPU would be waited for
            return frames.repeat_interleave(self.codebooks, output_size=self.slots)
        return (frames[:, None] - torch.tensor(self.delays, device=device)).flatten()

    def to_steps(self, codes: Tensor, before_id: int, after_id: int) -> Tensor:
        """Codes in the slots of steps: (B, L, M).

        Args:
            codes: (B, T, N) int64.
            before_id: id of the slots before a late codebook's first frame.
            after_id: id of the slots behind the last frame.

        Returns:
            (B, num_steps(T), M) int64.
        """
        if self.max_delay:
            late = [
                nn.functional.pad(
                    nn.functional.pad(codes[..., n], (delay, 0), value=before_id),
                    (0, self.max_delay - delay),
                    value=after_id,
                )
                for n, delay in enumerate(self.delays)
            ]
            codes = torch.stack(late, dim=-1)
        return stack_frames(codes, self.stacking, after_id)

    def to_frames(self, steps: Tensor) -> Tensor:
        """Codes of the frames that are complete; the inverse of `to_steps` up to the fill.

        Args:
            steps: (B, L, M) int64.

        Returns:
            (B, L * S - max_delay, N) int64.
        """
        codes = unstack_frames(steps, self.stacking)
        if not self.max_delay:
            return codes
        length = max(codes.shape[1] - self.max_delay, 0)
        return torch.stack([codes[:, delay : delay + length, n] for n, delay in enumerate(self.delays)], dim=-1)
