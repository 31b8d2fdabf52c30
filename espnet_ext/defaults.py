"""What options are where nobody names them, and what they may be, as far as a command's help tells it.

In the room that uses such a value the help of a command would have to import that room, and with it torch.
"""

from __future__ import annotations

# of a model that decodes faster: of weights; sums and everything else are float32
PRECISIONS = ("float32", "fp16", "bf16", "int8")
PRECISION_CHOICES = (*PRECISIONS, "auto")

# of weights that are shared: what a matrix may be stored as; it is computed with as float32 in any case
DTYPES = ("float32", "float16", "int8")
NOT_STATED = "not stated"  # a licence

# of the modes of GPST
PROMPT_SEC = 3.0
PAUSE_SEC = 0.1  # silence between a prompt and what follows it, arXiv:2406.00976
NUM_UTTERANCES = 20  # of mode unconditional
