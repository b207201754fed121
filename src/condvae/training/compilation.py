"""`torch.compile`, where there is all that it takes."""

from __future__ import annotations

import os
import shutil
import warnings

import torch
from accelerate.utils import TorchDynamoPlugin


def why_not(device: torch.device) -> str:
    """What keeps functions from being compiled for a device, by a trial; empty where nothing does."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        return "there is no C++ compiler"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            doubled = torch.compile(lambda x: 2 * x)(torch.ones(8, device=device))
    except Exception as error:
        return type(error).__name__
    return "" if doubled.eq(2).all() else "its results are wrong"


def compilation() -> TorchDynamoPlugin:
    """How steps are compiled. A part that can't be runs as it is, and PyTorch warns of it."""
    torch._dynamo.config.suppress_errors = True
    return TorchDynamoPlugin(backend="inductor", mode="default")
