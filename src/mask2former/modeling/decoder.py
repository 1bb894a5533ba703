"""The masked-attention decoder: queries look at the pixels of the masks that they predicted.

Inside, everything has a time axis: an image is a clip of one frame, and a query has one mask over
all frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mask2former.modeling.linear import Linear, feed_forward, linear
from mask2former.modeling.position_encoding import Origin, sine_2d, sine_3d
from mask2former.modeling.resize import shrink
from mask2former.structures import Output, Prediction, mask_logits


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Every choice that the paper ablates in the decoder is one field; defaults are the paper's."""

    channels: int = 256
    mask_channels: int = 256
    layers: int = 9
    heads: int = 8
    feedforward: int = 2048
    queries: int = 100
    dropout: float = 0.0
    masked_attention: bool = True
    strides: tuple[int, ...] = (32, 16, 8)  # the scale that each layer in turn attends to
    self_attention_first: bool = False
    learnable_queries: bool = True  # else zero, and not supervised before the first layer
    temporal_positions: bool = False  # 3-D position encoding, as the video models have it
    # Beyond the paper, for small models trained from nothing:
    selected_share: float = 0.0  # of the stride-8 cells become queries too: the most object-like
    anchored_masks: bool = False  # their masks begin around their cell; wants `mask_positions`
    position_period: float | None = None  # pixels; see `position_encoding.sine_2d`

    def __post_init__(self) -> None:
        """ValueError if the heads cannot share the channels."""
        if self.heads < 1 or self.channels % self.heads:
            raise ValueError(f"decoder: {self.heads} heads cannot share {self.channels} channels")


class Attention(nn.Module):
    """Multi-head attention with residual and norm after it."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Float[Tensor, "B Q C"],
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        allowed: Bool[Tensor, "B Q S"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """`x` is what the result is added to; a query attends to the keys it is `allowed`."""
        q, k, v = (
            linear(source, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for source, weight, bias in zip(
                (query, key, value),
                self.in_proj_weight.chunk(3),
                self.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if allowed is None else allowed.unsqueeze(1),
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        normalised: Tensor = self.norm(x + self.dropout(out))
        return normalised


class FeedForward(nn.Module):
    """Two linear layers with residual and norm after them."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q C"]:
        fed = feed_forward(x, self.linear1, self.linear2, self.dropout)
        normalised: Tensor = self.norm(x + self.dropout(fed))
        return normalised


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward: in this order, for the queries carry
    nothing of the image before they have looked at it (paper, section 3.2.3)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attention_first = config.self_attention_first
        self.cross_attention = Attention(config.channels, config.heads, config.dropout)
        self.self_attention = Attention(config.channels, config.heads, config.dropout)
        self.feedforward = FeedForward(config.channels, config.feedforward, config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B Q C"],
        query_position: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        allowed: Bool[Tensor, "B Q S"] | None,
    ) -> Float[Tensor, "B Q C"]:
        if self.self_attention_first:
            x = self.attend_each_other(x, query_position)
        x = self.cross_attention(x, x + query_position, key, value, allowed)
        if not self.self_attention_first:
            x = self.attend_each_other(x, query_position)
        fed: Tensor = self.feedforward(x)
        return fed

    def attend_each_other(
        self, x: Float[Tensor, "B Q C"], position: Float[Tensor, "B Q C"]
    ) -> Float[Tensor, "B Q C"]:
        attended: Tensor = self.self_attention(x, x + position, x + position, x)
        return attended


class PredictionHead(nn.Module):
    """Class logits and a mask embedding of every query; one head serves all layers."""

    def __init__(self, config: DecoderConfig, classes: int) -> None:
        super().__init__()
        c = config.channels
        self.norm = nn.LayerNorm(c)
        self.class_logits = Linear(c, classes + 1)
        self.mask_embedding = nn.Sequential(
            Linear(c, c),
            nn.ReLU(),
            Linear(c, c),
            nn.ReLU(),
            Linear(c, config.mask_channels),
        )
        if config.anchored_masks:
            self.anchoring = nn.Linear(c, 1)
            nn.init.zeros_(self.anchoring.weight)
            nn.init.constant_(self.anchoring.bias, 0.2)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        anchors: Float[Tensor, "B Q D"] | None,
        mask_features: Float[Tensor, "B D T h w"],
        clip: bool,
    ) -> Prediction:
        """`anchors` are the positions of the queries' cells, of the kind the features carry.

        The product of two positions falls with their distance, so it is a mask around the cell;
        how much of it a query wants, it says itself.
        """
        x = self.norm(queries)
        embeddings = self.mask_embedding(x)
        if anchors is not None:
            embeddings = embeddings + self.anchoring(x) * anchors
        return Prediction(
            class_logits=self.class_logits(x),
            mask_embeddings=embeddings,
            mask_features=mask_features,
            is_clip=clip,
        )


class Decoder(nn.Module):
    """Queries -> one prediction before the first layer and one after each layer."""

    def __init__(self, config: DecoderConfig, classes: int, inputs: int) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        if config.learnable_queries:
            self.query_features = nn.Parameter(torch.randn(config.queries, c))
        self.query_positions = nn.Parameter(torch.randn(config.queries, c))
        self.level_embedding = nn.Parameter(torch.randn(len(config.strides), c))
        self.projection = nn.Conv2d(inputs, c, 1) if inputs != c else nn.Identity()
        if config.selected_share:
            self.selection = nn.Sequential(Linear(c, c), nn.LayerNorm(c))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.head = PredictionHead(config, classes)

    def forward(
        self,
        mask_features: Float[Tensor, "B D T h w"],
        scales: list[Float[Tensor, "B C T h w"]],
        clip: bool,
        origin: Origin = (0, 0),
    ) -> Output:
        """`scales` are the maps at strides 32, 16, 8; `origin` as for the pixel decoder."""
        config = self.config
        maps = dict(zip((32, 16, 8), scales, strict=True))
        memories = [
            self.memory(maps[stride], stride, level, origin)
            for stride, level in zip(config.strides, self.level_embedding, strict=True)
        ]
        # Resizing commutes with the dot product over channels: the attention masks come from
        # features that are shrunk once, not from ten full-size predictions that are shrunk each.
        shrunk = [shrink_frames(mask_features.detach(), maps[s].shape[-2:]) for s in config.strides]
        x, query_positions, cell_logits = self.queries(maps[8], origin)
        anchors = self.anchors(query_positions)
        predictions = []
        if config.learnable_queries:
            predictions.append(self.head(x, anchors, mask_features, clip))
        for i, layer in enumerate(self.layers):
            key, value = memories[i % len(memories)]
            allowed = None
            if config.masked_attention:
                prediction = (
                    predictions[-1] if predictions else self.head(x, anchors, mask_features, clip)
                )
                allowed = attention_mask(prediction.mask_embeddings, shrunk[i % len(memories)])
            x = layer(x, query_positions, key, value, allowed)
            predictions.append(self.head(x, anchors, mask_features, clip))
        return Output(predictions=tuple(predictions), cell_logits=cell_logits)

    def memory(
        self, x: Float[Tensor, "B C T h w"], stride: int, level: Float[Tensor, "C"], origin: Origin
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B S C"]]:
        """Keys and values of one scale: positions go to the keys alone."""
        value = tokens_of(self.project(x)) + level
        return value + self.positions(x, stride, origin), value

    def project(self, x: Float[Tensor, "B I T h w"]) -> Float[Tensor, "B C T h w"]:
        if isinstance(self.projection, nn.Identity):
            return x
        frames: Tensor = self.projection(x.transpose(1, 2).flatten(0, 1))
        return to_clips(frames, x.shape[0])

    def positions(
        self, x: Float[Tensor, "B C T h w"], stride: int, origin: Origin
    ) -> Float[Tensor, "S C"]:
        frames, h, w = x.shape[2:]
        config = self.config
        if config.temporal_positions:
            code = sine_3d(frames, h, w, config.channels, device=x.device)
            return code.transpose(0, 1).flatten(1).T.to(x.dtype)
        code = sine_2d(
            h,
            w,
            config.channels,
            stride=stride,
            period=config.position_period,
            origin=origin,
            device=x.device,
        )
        return code.flatten(1).T.repeat(frames, 1).to(x.dtype)

    def queries(
        self, finest: Float[Tensor, "B C T h w"], origin: Origin
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q C"], Float[Tensor, "B T h w K1"] | None]:
        """Features and positions of the queries before the first layer; class logits of cells."""
        batch = len(finest)
        positions = self.query_positions.expand(batch, -1, -1)
        if self.config.learnable_queries:
            features = self.query_features.expand(batch, -1, -1)
        else:
            features = torch.zeros_like(positions)
        if not self.config.selected_share:
            return features, positions, None
        selected, places, cell_logits = self.select(finest, origin)
        features, positions = torch.cat((features, selected), 1), torch.cat((positions, places), 1)
        return features, positions, cell_logits

    def anchors(self, query_positions: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q D"] | None:
        """The cells' positions of the selected queries, nothing for the learnt ones."""
        if not self.config.anchored_masks:
            return None
        learnt = torch.zeros_like(query_positions[:, : self.config.queries])
        return torch.cat((learnt, query_positions[:, self.config.queries :]), 1)

    def select(
        self, finest: Float[Tensor, "B C T h w"], origin: Origin
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q C"], Float[Tensor, "B T h w K1"]]:
        """The stride-8 cells whose features the prediction head takes for an object, best first.

        They start where an object is instead of having to learn where to look. The head is trained
        on them by the loss of the first prediction, and on every cell by `LossConfig.cell_weight`;
        the choice itself needs no gradient.
        """
        position = self.positions(finest, 8, origin)
        # With its place among its features a query can tell its own mask from a twin's beside it.
        tokens: Tensor = self.selection(tokens_of(self.project(finest)) + position)
        logits = self.head.class_logits(self.head.norm(tokens))
        with torch.no_grad():
            score = (logits[..., :-1].logsumexp(-1) - logits[..., -1]).float()
            count = max(1, round(self.config.selected_share * score.shape[1]))
            chosen = score.topk(count).indices
        index = chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        cell_logits = logits.unflatten(1, finest.shape[2:])
        return tokens.gather(1, index), position[chosen], cell_logits


def tokens_of(x: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B S C"]:
    return x.flatten(2).transpose(1, 2)


def shrink_frames(x: Float[Tensor, "B C T h w"], size: torch.Size) -> Float[Tensor, "B C T H W"]:
    """Bilinear, without antialiasing, frame by frame."""
    return to_clips(shrink(x.transpose(1, 2).flatten(0, 1), size), x.shape[0])


def to_clips(frames: Float[Tensor, "BT C h w"], batch: int) -> Float[Tensor, "B C T h w"]:
    clips: Tensor = frames.unflatten(0, (batch, -1))
    return clips.transpose(1, 2)


@torch.no_grad()
def attention_mask(
    mask_embeddings: Float[Tensor, "B Q D"], mask_features: Float[Tensor, "B D T h w"]
) -> Bool[Tensor, "B Q S"]:
    """Where each query may look: the foreground of its mask, or everywhere if that is empty.

    In fp32, for in half precision a logit of -0.004 has a sigmoid of 0.5 already.
    """
    with torch.autocast(mask_features.device.type, enabled=False):
        logits = mask_logits(mask_embeddings.float(), mask_features.float()).flatten(2)
    allowed = logits.sigmoid() >= 0.5
    return allowed | ~allowed.any(-1, keepdim=True)
