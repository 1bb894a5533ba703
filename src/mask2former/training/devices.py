"""Where a training runs: one device or many, on one node or more, by Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mask2former.modeling.decoder import DecoderLayer
from mask2former.modeling.hf_backbone import HFBackbone, HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.pixel_decoder import EncoderLayer
from mask2former.modeling.resnet import Block
from mask2former.modeling.swin import SwinBlock
from mask2former.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh

_UNITS = (SwinBlock, Block, EncoderLayer, DecoderLayer)  # of what fsdp gathers at once


def make_fabric(config: TrainConfig) -> Fabric:
    """The Fabric of a training. Under torchrun its processes and nodes are the ones that count."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    devices, num_nodes = config.devices, config.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if devices == "auto":
        devices = _devices_of(config.accelerator)
    strategy: Any = "auto"
    if config.strategy == "fsdp":
        strategy = ModelParallelStrategy(
            shard, data_parallel_size=devices * num_nodes, tensor_parallel_size=1
        )
    elif config.strategy == "ddp" or devices * num_nodes > 1:
        strategy = DDPStrategy(
            find_unused_parameters=has_unused_parameters(config), gradient_as_bucket_view=True
        )
    return Fabric(
        accelerator=config.accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=config.precision,
    )


def _devices_of(accelerator: str) -> int:
    """The GPUs of this node; one CPU, for its threads share the work already."""
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1


def has_unused_parameters(config: TrainConfig) -> bool:
    """Whether a step may leave parameters without a gradient, which ddp then has to look for."""
    cells_alone = not config.loss.compares_predictions
    return cells_alone or isinstance(config.model.backbone, HFBackboneConfig)


def synchronise_norms(model: Mask2Former, fabric: Fabric) -> None:
    """On several GPUs batch norms take the statistics of all; torch has this for GPUs alone."""
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


# --- fsdp: every process holds a part of each parameter -----------------------------------------


def shard(model: Mask2Former, mesh: DeviceMesh) -> Mask2Former:
    """Share out the parameters: each block is gathered when it computes, the rest stays together.

    What calls parts of a module without the module, as the prediction head is, belongs to the rest.
    """
    from torch.distributed.fsdp import fully_shard

    group = mesh["data_parallel"]
    layers: set[nn.Module] = set()
    if isinstance(model.backbone, HFBackbone):
        lists = [m for m in model.backbone.body.modules() if isinstance(m, nn.ModuleList)]
        layers = {layer for list_ in lists for layer in list_}
    for module in reversed(list(model.modules())):  # what is inside first
        if isinstance(module, _UNITS) or module in layers:
            fully_shard(module, mesh=group)
    fully_shard(model, mesh=group)
    return model


def whole(x: Any) -> Any:
    """A tree's tensors on the CPU, put together from their parts. All processes must call it."""
    if isinstance(x, dict):
        return {key: whole(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(whole(value) for value in x)
    if isinstance(x, DTensor):
        x = x.full_tensor()
    return x.detach().cpu() if isinstance(x, Tensor) else x


def as_held(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, in its layout, and in parts if `like` is."""
    if tensor.shape != like.shape:
        raise ValueError(f"a tensor {tuple(tensor.shape)} cannot be held as {tuple(like.shape)}")
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
