"""What ESPnet2's trainer does for the task through `build_optimizers`."""

from __future__ import annotations

from typing import Any

from lightning import Callback

from espnet_ext.model.primary.attention_prior import AttentionPrior


class FollowOptimizer(Callback):
    """Lets attention priors that change during training count the optimiser's steps."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell them about the optimiser.

        Args:
            trainer: Lightning's.
            pl_module: ESPnet3's.
        """
        for module in pl_module.model.modules():
            if isinstance(module, AttentionPrior):
                module.follow(trainer.optimizers[0])
