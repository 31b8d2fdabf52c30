"""An ESPnet2 training configuration in the words of ESPnet3: model, optimiser, scheduler, batches, trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_ext.errors import UserError

MODEL = {
    *("corelm", "corelm_conf", "primary", "primary_conf", "local", "local_conf", "model_conf", "parts", "train_only"),
    *("frame_stacking_factor", "prompt_sec", "matmul_precision"),
}
TRAINER = {"max_epoch": "max_epochs", "grad_clip": "gradient_clip_val", "accum_grad": "accumulate_grad_batches"}
TRAINER |= {"log_interval": "log_every_n_steps"}
BATCHES = {"batch_type": "type", "batch_bins": "batch_bins", "batch_size": "batch_size"}
OTHERS = {"optim", "optim_conf", "scheduler", "scheduler_conf", "num_workers", "seed", "best_model_criterion"}
OTHERS |= {"keep_nbest_models", "num_iters_per_epoch"}


def _class_path(classes: Mapping[str, type], option: str, name: str) -> str:
    if name not in classes:
        raise UserError(f"{option} must be one of {sorted(classes)}, got {name!r}")
    return f"{classes[name].__module__}.{classes[name].__qualname__}"


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with single options that differ, those of an option's own options too."""
    result = dict(config)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = changed(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def espnet3_config(config: Mapping[str, Any], shape_dir: str) -> dict[str, Any]:
    """The parts of an ESPnet3 training configuration.

    Args:
        config: content of an ESPnet2 training configuration.
        shape_dir: directory of stage collect_stats.

    Returns:
        Name → what ESPnet3 has under it.

    Raises:
        UserError: naming an option that ESPnet3 has no word for.
    """
    known = {*MODEL, *TRAINER, *BATCHES, *OTHERS}
    if unknown := sorted(config.keys() - known):
        raise UserError(f"train_config must have options that ESPnet3 can be told, got {unknown}: its trainer has none")
    scheduler = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
    if config.get("scheduler"):
        scheduler = {
            "_target_": _class_path(scheduler_classes, "scheduler", config["scheduler"]),
            **(config.get("scheduler_conf") or {}),
        }
    optimizer = _class_path(optim_classes, "optim", config.get("optim", "adamw"))
    keep = config.get("keep_nbest_models", 1)
    return {
        "model": {name: config[name] for name in config if name in MODEL},
        "optimizer": {"_target_": optimizer, **(config.get("optim_conf") or {})},
        "scheduler": scheduler,
        "scheduler_interval": "step",
        "seed": config.get("seed", 0),
        "best_model_criterion": [
            [f"{phase}/{name}", keep, mode] for phase, name, mode in config["best_model_criterion"]
        ],
        "dataloader": {
            "collate_fn": {"_target_": "src.preprocess.Collate"},
            "train": _iterations(config, f"{shape_dir}/train", shuffle=True, most=config.get("num_iters_per_epoch")),
            "valid": _iterations(config, f"{shape_dir}/valid", shuffle=False),
        },
        "trainer": {TRAINER[name]: config[name] for name in config if name in TRAINER},
    }


def _iterations(config: Mapping[str, Any], shape_dir: str, shuffle: bool, most: int | None = None) -> dict[str, Any]:
    batches = {BATCHES[name]: config[name] for name in config if name in BATCHES}
    shapes = [f"{shape_dir}/{name}_shape" for name in ("codes", "text")]
    return {
        "iter_factory": {
            "_target_": "espnet2.iterators.sequence_iter_factory.SequenceIterFactory",
            "shuffle": shuffle,
            "num_iters_per_epoch": most,
            "seed": config.get("seed", 0),
            "num_workers": config.get("num_workers", 0),
            "collate_fn": {"_target_": "src.preprocess.Collate"},
            "batches": {"batch_size": 20, "batch_bins": 100_000, **batches, "shape_files": shapes},
        }
    }
