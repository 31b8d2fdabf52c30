"""The mini corpus in ESPnet3: from text and audio to a model, its speech, its scores and a package, stage by stage.

python run.py --stages create_dataset collect_stats train infer measure --training_config conf/training.yaml \
    --inference_config conf/inference.yaml --metrics_config conf/metrics.yaml
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

RECIPE = Path(__file__).resolve().parent
# of ESPnet3's own requirements, what a smaller installation of ESPnet lacks
NEEDED = {"lightning": "lightning", "distributed": "dask[distributed]", "dask_jobqueue": "dask-jobqueue"}
NEEDED |= {"hydra": "hydra-core", "espnet_model_zoo": "espnet-model-zoo", "pandas": "pandas"}

if find_spec("espnet3") is None:
    sys.exit("error: this recipe needs ESPnet 202609 or later, which needs Python 3.12 or 3.13, see README.md")
if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
    sys.exit(f"error: ESPnet3 needs packages that are not installed: pip install {' '.join(missing)}")

# here, not below: the processes that ESPnet3 starts for infer run this file again up to its last lines
sys.path[:0] = [
    str(RECIPE),
    str(RECIPE.parent),
]  # the second one for the defaults of the configurations, this recipe's own
from src.system import CodecLMSystem  # noqa: E402, I001 (first: it makes torchaudio importable)
from espnet3.systems.launch import launch  # noqa: E402

if __name__ == "__main__":
    launch(CodecLMSystem, conf_package=RECIPE.name)
