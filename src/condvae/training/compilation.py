"""`torch.compile`, where there is all that it takes."""

from __future__ import annotations

import os
import shutil
import warnings

import torch
from accelerate.utils import TorchDynamoPlugin


def why_not() -> str:
    """What keeps functions from being compiled here, by a trial; empty where nothing does."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        return "there is no C++ compiler"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            doubled = torch.compile(lambda x: 2 * x)(torch.ones(8))
    except Exception as error:
        return type(error).__name__
    return "" if doubled.eq(2).all() else "its results are wrong"


def compilation(device: torch.device) -> TorchDynamoPlugin:
    """How steps are compiled: on a GPU into graphs, which are launched as a whole.

    A part that turns out not to be compilable runs as it is, and PyTorch warns of it.
    """
    torch._dynamo.config.suppress_errors = True
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return TorchDynamoPlugin(backend="inductor", mode=mode)
