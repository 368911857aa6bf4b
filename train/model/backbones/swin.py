"""Swin Transformer T, S, B and L (Liu et al., 2021) for dense prediction: any input size, one LayerNorm per output.

    res2, res3, res4, res5 = build_swin("swin-tiny")(pixels)

Sizes enter as tensor shapes alone: no loop and no branch depends on data, so `torch.export` takes it with fixed or
with dynamic height and width. Facts: paper sec. 3; Mask2Former's mask2former/modeling/backbone/swin.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

# name -> embedding width, blocks per stage, heads per stage, window
VARIANTS = {
    "swin-tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin-small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "swin-base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin-large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
DROP_PATH = 0.3  # every configuration of the official zoo trains with it
PATCH = 4
OTHER_REGION = -100.0  # added to the logits of pixels that only the cyclic shift made neighbours; the reference's value


class PatchEmbed(nn.Module):
    """Non-overlapping 4×4 patches to tokens, then LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        pixels = _pad_bottom_right(pixels, -height % PATCH, -width % PATCH)  # [N, 3, 4H, 4W]
        return self.norm(self.projection(pixels).permute(0, 2, 3, 1))  # [N, H, W, C]


class WindowAttention(nn.Module):
    """Self-attention inside windows of `window`² tokens, with a learned bias for each relative position and head."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # [(2w-1)², heads]
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window), persistent=False)  # [w², w²]

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """windows [N, K, w², C] (K windows an image), mask [K, w², w²] or None -> [N, K, w², C]."""
        batch, count, tokens, width = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each [N, K, heads, w², C/heads]
        logits = (query * self.scale) @ key.transpose(-2, -1)  # [N, K, heads, w², w²]
        bias = self.relative_position_bias_table[self.relative_position_index]  # [w², w², heads]
        logits = logits + bias.permute(2, 0, 1)
        if mask is not None:
            logits = logits + mask.unsqueeze(1)  # [K, 1, w², w²]
        mixed = (logits.softmax(-1) @ value).transpose(2, 3)  # [N, K, w², heads, C/heads]
        return self.projection(mixed.reshape(batch, count, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP, pre-norm; `shift` moves the windows by that many tokens."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [N, H, W, C] -> same; mask [K, w², w²] of this size's shifted windows, unused where shift is 0."""
        x = x + self._drop(self._attend(self.norm1(x), mask))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        window = self.window
        down, across = _windows(height, window), _windows(width, window)
        x = _pad_bottom_right(x.permute(0, 3, 1, 2), down * window - height, across * window - width)
        x = x.permute(0, 2, 3, 1)  # [N, Hp, Wp, C], multiples of the window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = x.reshape(batch, down, window, across, window, channels).transpose(2, 3)  # [N, d, a, w, w, C]
        windows = windows.reshape(batch, down * across, window * window, channels)  # [N, K, w², C]
        windows = self.attention(windows, mask if self.shift else None)
        x = windows.reshape(batch, down, across, window, window, channels).transpose(2, 3)  # [N, d, w, a, w, C]
        x = x.reshape(batch, down * window, across * window, channels)  # [N, Hp, Wp, C]
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]  # [N, H, W, C]

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., 2016): in training, a residual branch is left out for whole samples."""
        if not self.training or not self.drop_path:
            return x
        keep = 1 - self.drop_path
        kept = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) < keep  # [N, 1, 1, 1]
        return x * kept / keep


class PatchMerging(nn.Module):
    """2×2 tokens to one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        down, across = _windows(height, 2), _windows(width, 2)
        x = _pad_bottom_right(x.permute(0, 3, 1, 2), down * 2 - height, across * 2 - width).permute(0, 2, 3, 1)
        x = x.reshape(batch, down, 2, across, 2, channels)  # [N, H/2, row, W/2, column, C]
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(
            batch, down, across, 4 * channels
        )  # column before row, as stored weights
        return self.reduction(self.norm(x))  # [N, H/2, W/2, 2C]


class SwinStage(nn.Module):
    def __init__(
        self, width: int, depth: int, heads: int, window: int, drop_paths: Sequence[float], downsample: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, window, shift=block % 2 * (window // 2), drop_path=drop_paths[block])
            for block in range(depth)
        )
        self.downsample = PatchMerging(width) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, H, W, C] -> (output [N, H, W, C], the next stage's input [N, H/2, W/2, 2C])."""
        mask = _shifted_window_mask(x, self.window)  # [K, w², w²]
        for block in self.blocks:
            x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class SwinTransformer(nn.Module):
    """`width`: channels of the first stage, doubled by each further one; `drop_path` rises linearly from 0 to it."""

    def __init__(
        self, width: int, depths: Sequence[int], heads: Sequence[int], window: int, drop_path: float = DROP_PATH
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.channels = tuple(width * 2**i for i in range(len(depths)))
        rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList(
            SwinStage(
                self.channels[i],
                depth,
                heads[i],
                window,
                rates[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=i < len(depths) - 1,
            )
            for i, depth in enumerate(depths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """pixels [N, 3, H, W] -> [res2, res3, res4, res5], [N, channels[i], H/s, W/s] at strides 4, 8, 16, 32."""
        x = self.patch_embed(pixels)  # [N, H/4, W/4, C]
        outputs = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            output, x = stage(x)
            outputs.append(norm(output).permute(0, 3, 1, 2).contiguous())  # [N, C·2^i, H/s, W/s]
        return outputs


def build_swin(name: str) -> SwinTransformer:
    """A variant of VARIANTS with random weights."""
    return SwinTransformer(*VARIANTS[name])


def _windows(length: int, window: int) -> int:
    return (length + window - 1) // window


def _pad_bottom_right(x: Tensor, bottom: int, right: int) -> Tensor:
    """Zeros on [N, C, H, W]; a size known to need none, even a symbolic one, makes no node in an exported graph."""
    if statically_known_true(bottom == 0) and statically_known_true(right == 0):
        return x
    return F.pad(x, (0, right, 0, bottom))


def _relative_position_index(window: int) -> Tensor:
    """[w², w²] rows of the bias table for each pair of tokens: (Δrow + w - 1)·(2w - 1) + Δcolumn + w - 1."""
    steps = torch.arange(window)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))  # each [w²]
    row_offset = rows[:, None] - rows[None] + window - 1  # [w², w²]
    column_offset = columns[:, None] - columns[None] + window - 1  # [w², w²]
    return row_offset * (2 * window - 1) + column_offset


def _shifted_window_mask(x: Tensor, window: int) -> Tensor:
    """[K, w², w²] for x [N, H, W, C]: OTHER_REGION between tokens that were not neighbours before the cyclic shift."""
    down, across = _windows(x.shape[1], window), _windows(x.shape[2], window)
    rows = _regions(down * window, window, x)  # [Hp]
    columns = _regions(across * window, window, x)  # [Wp]
    regions = rows[:, None] * 3 + columns[None]  # [Hp, Wp]
    regions = regions.reshape(down, window, across, window).transpose(1, 2).reshape(down * across, window * window)
    different = regions[:, None] != regions[:, :, None]  # [K, w², w²]
    return different.to(x.dtype) * OTHER_REGION


def _regions(length: int, window: int, x: Tensor) -> Tensor:
    """[length] 0 before the last window, 1 in it, 2 in the part that the shift brings round."""
    steps = torch.arange(length, device=x.device)
    return (steps >= length - window).long() + (steps >= length - window // 2).long()
