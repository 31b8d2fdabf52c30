"""The ESPnet tasks: the only place where ESPnet's trainer is touched."""

import contextlib
import io

# it prints that there is no Flash Attention, in front of whatever a command has to say
with contextlib.suppress(ImportError), contextlib.redirect_stdout(io.StringIO()):
    import espnet.nets.pytorch_backend.transformer.attention  # noqa: F401
