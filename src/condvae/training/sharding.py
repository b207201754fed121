"""Weights shared out over processes: each keeps a part, and has them whole only while it takes a step.

So it is for gradients and the optimiser's state too (Rajbhandari et al. 2020; Zhao et al. 2023). What
is shared out is a DTensor; these functions leave all other tensors as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def share_out(module: nn.Module, processes: int, device: torch.device) -> None:
    """Share out a module's parameters, all as one group; its `forward` then has them whole."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last ones can't be shared out
    mesh = init_device_mesh(device.type, (processes,))
    fully_shard(module, mesh=mesh)
    # DTensor's caches keep the mesh for good. Were the processes' group kept with it, its threads would
    # be at work until Python ends, which can abort the process (PyTorch issue 190489). The mesh finds
    # the group by its name; its register serves compiled steps, and no step that is shared out is one.
    getattr(mesh, "_pg_registry", {}).clear()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together; all processes ask for it at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This process's part of it, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has whole, shared out as another is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def put_together(part: Tensor, like: Tensor) -> Tensor:
    """A tensor of which this is this process's part, put together as another would be."""
    if not isinstance(like, DTensor):
        return part
    mesh, placements = like.device_mesh, like.placements
    shared = DTensor.from_local(part, mesh, placements, shape=like.shape, stride=like.stride())
    return shared.full_tensor()
