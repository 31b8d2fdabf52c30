"""What the recipe adds to ESPnet3: the system, and what its configurations name."""

import espnet_ext.tasks  # noqa: F401 (first: ESPnet imports torchaudio, which may not load without the shim)
