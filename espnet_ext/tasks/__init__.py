"""The ESPnet tasks: the only place where ESPnet's trainer is touched."""

import contextlib
import io
import sys

from espnet_ext.storage.torchaudio_shim import import_torchaudio

import_torchaudio()  # ESPnet imports it at its top, where it may not load without the shim
# it says, on one stream or the other, that there is no Flash Attention, in front of whatever a command has to say
_said = io.StringIO()
with contextlib.redirect_stdout(_said), contextlib.redirect_stderr(_said):
    import espnet2.tasks.abs_task  # noqa: F401
sys.stderr.write("".join(line for line in _said.getvalue().splitlines(True) if "Flash Attention" not in line))
