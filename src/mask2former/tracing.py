"""Whether a computation is looked at by something that wants torch's plain operations."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_traced() -> bool:
    """Whether operations are noted, counted or faked rather than merely run.

    What is quick only because of how it runs is not to be met there, and no tensor kept from there.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
        or _get_current_dispatch_mode() is not None
    )
