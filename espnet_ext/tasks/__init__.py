"""The ESPnet tasks: the only place where ESPnet's trainer is touched."""

import contextlib
import io

from espnet_ext.storage.torchaudio_shim import import_torchaudio

import_torchaudio()  # ESPnet imports it at its top, where it may not load without the shim
# it prints that there is no Flash Attention, in front of whatever a command has to say
with contextlib.redirect_stdout(io.StringIO()):
    import espnet2.tasks.abs_task  # noqa: F401
