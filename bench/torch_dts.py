"""The Dynamic Token Synthesizer once more, in plain PyTorch: what bench/torch_speed.py compares ours with.

Written from the specification and with the names of the released weights, so that `load_state_dict` takes them. Arrays
are [groups, channels, time, height, width].

Source: SPEC 6 and 7, with the released quirks 1 (packing) and 15 (the transposed relative term).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vxlpro_jax.models.part_configs import DtsConfig


def pack_frames(features: Tensor, config: DtsConfig) -> Tensor:
    """[T, C, h, w] -> [G, C, t, h, w]: the memory of a group is read as if time came after channels."""
    return features.reshape(-1, config.dim, config.frames_per_group, *features.shape[-2:])


class SpatialBlock(nn.Module):
    def __init__(self, config: DtsConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.num_norm_groups, config.dim, config.norm_eps)
        self.q, self.k, self.v, self.proj_out = (nn.Conv3d(config.dim, config.dim, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        groups, dim, time, height, width = x.shape
        normed = self.norm(x)

        def per_slot(project: nn.Conv3d) -> Tensor:  # [G * t, 1, h * w, C]
            return project(normed).permute(0, 2, 3, 4, 1).reshape(groups * time, 1, height * width, dim)

        mixed = functional.scaled_dot_product_attention(per_slot(self.q), per_slot(self.k), per_slot(self.v))
        return x + self.proj_out(mixed.reshape(groups, time, height, width, dim).permute(0, 4, 1, 2, 3))


class RelativePosition(nn.Module):
    def __init__(self, config: DtsConfig):
        super().__init__()
        self.clip = config.max_relative_offset
        self.embeddings_table = nn.Parameter(torch.empty(2 * self.clip + 1, config.dim))

    def forward(self, time: int) -> Tensor:
        """[i, j, C]: the row of offset j - i."""
        place = torch.arange(time)
        return self.embeddings_table[(place[None] - place[:, None]).clamp(-self.clip, self.clip) + self.clip]


class TemporalBlock(nn.Module):
    def __init__(self, config: DtsConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.num_norm_groups, config.dim, config.norm_eps)
        self.qkv = nn.Conv1d(config.dim, 3 * config.dim, 1)
        self.relative_position_k, self.relative_position_v = RelativePosition(config), RelativePosition(config)
        self.proj_out = nn.Conv1d(config.dim, config.dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        groups, dim, time, height, width = x.shape
        z = x.permute(0, 3, 4, 1, 2).reshape(-1, dim, time)
        q, k, v = self.qkv(self.norm(z)).transpose(1, 2).chunk(3, dim=-1)  # [n, t, C]
        scale = dim**-0.25
        relative = torch.einsum("nic,ijc->nij", q * scale, self.relative_position_k(time))
        logits = (q * scale) @ (k * scale).transpose(1, 2) + relative.transpose(1, 2)
        weights = logits.softmax(-1, dtype=torch.float32).to(x.dtype)
        mixed = weights @ v + torch.einsum("nij,ijc->nic", weights, self.relative_position_v(time))
        z = z + self.proj_out(mixed.transpose(1, 2))
        return z.reshape(groups, height, width, dim, time).permute(0, 3, 4, 1, 2)


class HalvingConv(nn.Module):
    def __init__(self, config: DtsConfig):
        super().__init__()
        self.conv = nn.Conv3d(config.dim, config.dim, 3, stride=(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (1, 1, 1, 1, 1, 0), mode="replicate"))


class TorchDts(nn.Module):
    """Packed groups -> one grid per group, [G, C, h, w]."""

    def __init__(self, config: DtsConfig):
        super().__init__()
        self.temporal_encoding = nn.Parameter(torch.empty(config.frames_per_group, config.dim))
        blocks = (SpatialBlock, TemporalBlock, HalvingConv)
        self.encoder = nn.Sequential(*(block(config) for _ in range(config.num_stages) for block in blocks))

    def forward(self, packed: Tensor) -> Tensor:
        return self.encoder(packed + self.temporal_encoding.T[:, :, None, None])[:, :, 0]
