"""The data of a decoder: sizes, and what its layers do, read from the metadata of a GGUF file and checked.

In: `Hyperparameters`. Out: a `DecoderConfig`, from which `decoder.Decoder` builds a model. A feature that an
architecture adds is a field here and its use in `decoder.py` or `blocks.py`: nothing there names an architecture.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ..graph.model import Config
from .axes import Axis, padded_head, round_up
from .hyperparameters import Hyperparameters


@dataclass(frozen=True)
class RopeKind:
    """How a layer rotates queries and keys.

    rotates: False leaves them as they are.
    base, num_rotated: frequencies are base^(-2i / num_rotated). pairing: "adjacent" (2i, 2i + 1) or "halves"
    (i, i + num_rotated / 2). scale: factor on positions. reads_factors: the file's `rope_freqs`, if it has them, divide
    the frequencies, or else its `rope_factors_long` in contexts of more than `short_context` tokens and its
    `rope_factors_short` in others. extends_from: the context of the training that YaRN extends, which scales low
    frequencies only; 0: all are scaled alike. magnitude: factor on sines and cosines.
    """

    base: float
    num_rotated: int
    pairing: str
    scale: float = 1.0
    reads_factors: bool = False
    rotates: bool = True
    extends_from: int = 0
    magnitude: float = 1.0
    short_context: int = 0

    def frequencies(self) -> np.ndarray:
        """Of each pair, in radians per position, f64 (num_rotated / 2,)."""
        pairs = np.arange(self.num_rotated // 2)
        if not self.rotates:
            return np.zeros(len(pairs))
        frequencies = np.float64(self.base) ** (-2.0 * pairs / self.num_rotated)
        if not self.extends_from:
            return self.scale * frequencies
        low, high = (self._pair_that_turns(times) for times in (32, 1))
        low, high = max(math.floor(low), 0), min(math.ceil(high), self.num_rotated - 1)
        share = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
        return frequencies * (share + self.scale * (1 - share))

    def _pair_that_turns(self, times: int) -> float:
        """The pair that turns `times` times in `extends_from` positions (Peng et al. 2023,
        https://arxiv.org/abs/2309.00071, section 3.2).
        """
        return self.num_rotated * math.log(self.extends_from / (times * 2 * math.pi)) / (2 * math.log(self.base))


@dataclass(frozen=True)
class LatentSizes:
    """Sizes of attention whose heads share a latent row (`latent.LatentAttention`).

    num_rotated: elements of a query and of the row that rotate. rank_axis: elements of the row that do not. q_axis:
    the rank of the queries' weights, if they have one.
    """

    num_rotated: int
    rank_axis: Axis
    q_axis: Axis | None

    @property
    def rotated(self) -> int:
        """`num_rotated` with zeros; the other elements come after them."""
        return round_up(self.num_rotated, 4)

    @property
    def row_axis(self) -> Axis:
        """The row, which files store with its rotated elements last."""
        rank = self.rank_axis.size
        places = *range(self.rotated, self.rotated + rank), *range(self.num_rotated)
        return Axis(1, places, round_up(self.rotated + self.rank_axis.total, 32))


@dataclass(frozen=True)
class Experts:
    """The mixture of experts that replaces the feed-forward of the layers whose file has a router.

    count, used: experts, and those that a token uses. feed_forward_axis: of an expert. gating, renormalize, factor,
    groups, groups_used: how tokens choose and weigh them (`ops/route.py`). Shared experts are where the file has them.
    """

    count: int
    used: int
    feed_forward_axis: Axis
    gating: str = "softmax"
    renormalize: bool = True
    factor: float = 1.0
    groups: int = 1
    groups_used: int = 1

    @classmethod
    def read(cls, meta: Hyperparameters) -> Self | None:
        """None for a dense model. Raises GGUFError if a size is missing or contradicts another."""
        count = meta.get_int("expert_count", 0, least=0)
        if not count:
            return None
        size = meta.get_int("expert_feed_forward_length", 0, least=0) or meta.get_int("feed_forward_length")
        used = meta.get_int("expert_used_count")
        meta.check_experts(count, used)
        return cls(count, used, Axis.of(size, 32))

    def routed(self, meta: Hyperparameters, *, gating: str, renormalize: bool) -> Self:
        """With the routing that the file's keys say. gating, renormalize: if it does not say them. Raises GGUFError if
        groups contradict the experts, UnsupportedModel for another gating.
        """
        groups = max(1, meta.get_int("expert_group_count", 1, least=0))
        groups_used = min(groups, max(1, meta.get_int("expert_group_used_count", groups, least=0)))
        meta.check_groups(self.count, self.used, groups, groups_used)
        return replace(
            self,
            gating=meta.gating(gating),
            renormalize=meta.get_bool("expert_weights_norm", renormalize),
            factor=meta.get_float("expert_weights_scale", 0.0) or 1.0,
            groups=groups,
            groups_used=groups_used,
        )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Sizes and features of a decoder with rotary positions.

    Sizes are those with zeros, as kernels see them; the axes say which elements are the file's. qk_axis, v_axis: of a
    head.

    ropes: of each layer. windows: positions that each layer sees, 0: all.
    norm: "rms" or "layer", which subtracts the mean. gate: "silu" or "gelu". activation: of a feed-forward without a
    gate, one that `F.activation` knows; empty: it has a gate. learned_positions: whether rows of `position_embd` are
    added to embeddings. is_parallel: attention and feed-forward have the same input, and the layer adds both to it.
    embedding_scale: factor on embeddings. residual_scale: factor on what a sub-block adds.
    score_scale: factor on attention's scores. score_softcap, logit_softcap: cap * tanh(x / cap); 0: none.
    logit_scale: factor on logits. pre_norms: whether norms come before the sub-blocks; those after them, and norms of
    queries and keys, are where the file has them. qk_norms: "head": of each head before its rotation, "rotated": after
    it, "row": of all heads together. latent: sizes of the row that heads share, if they do. attention_norm,
    feed_forward_norm: names of the norms before them. experts: None in a dense model. skipped_layers: blocks after the
    last one that the file has and the model does without.
    """

    width_axis: Axis
    feed_forward_axis: Axis
    qk_axis: Axis
    v_axis: Axis
    ropes: tuple[RopeKind, ...]
    windows: tuple[int, ...]
    score_scale: float
    norm: str = "rms"
    gate: str = "silu"
    activation: str = ""
    learned_positions: bool = False
    is_parallel: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    score_softcap: float = 0.0
    logit_softcap: float = 0.0
    logit_scale: float = 1.0
    pre_norms: bool = True
    qk_norms: str = "head"
    latent: LatentSizes | None = None
    attention_norm: str = "attn_norm"
    feed_forward_norm: str = "ffn_norm"
    experts: Experts | None = None
    skipped_layers: int = 0
    attention_post_norm: str = "post_attention_norm"

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state, without the zeros at its end that kernels need."""
        return self.width_axis.size

    def window_of(self, layer: int) -> int:
        """Positions that the layer sees, its own included; 0: all."""
        return self.windows[layer]

    def with_windows(self, window: int, whole_every: int) -> Self:
        """With a window in all layers but every `whole_every`-th, which sees all positions."""
        windows = [0 if layer % whole_every == whole_every - 1 else window for layer in range(self.num_layers)]
        return replace(self, windows=tuple(windows))

    def limited(self, context_length: int) -> int:
        """`context_length`, or as many tokens as the model has learned positions for."""
        return min(context_length, self.context_length) if self.learned_positions else context_length

    @classmethod
    def read(
        cls,
        meta: Hyperparameters,
        *,
        pairing: str,
        default_head_dim: int | None = None,
        default_rope_base: float = 10_000.0,
        norm: str = "rms",
        partial_rotation: bool = True,
    ) -> Self:
        """Read and check the sizes of a plain decoder, whose features an architecture then replaces
        (`dataclasses.replace`).

        default_head_dim: if the file does not say it; None divides the width by the number of heads.
        norm: the kind of norms, which decides the key of their epsilon. partial_rotation: whether
        `rope.dimension_count` may leave a part of a head as it is; if not, the key is ignored. Raises GGUFError if a
        size is missing or contradicts another; UnsupportedModel for a rope scaling that is not implemented.
        """
        num_layers = meta.num_layers()
        width = meta.get_int("embedding_length")
        num_heads = meta.get_int("attention.head_count")
        num_kv_heads = meta.get_int("attention.head_count_kv", num_heads)
        head_dim, value_dim = _head_lengths(meta, default_head_dim or width // num_heads)
        rope_dim = meta.get_int("rope.dimension_count", head_dim) if partial_rotation else head_dim
        meta.check_heads(num_heads, num_kv_heads, head_dim, rope_dim)
        experts = Experts.read(meta)
        feed_forward = meta.get_int("feed_forward_length", experts and experts.feed_forward_axis.size)
        meta.check_shapes(
            width=width,
            feed_forward=feed_forward,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            key_length=head_dim,
            value_length=value_dim,
        )
        meta.check_pooling("none", "last")
        width_axis, feed_forward_axis = Axis.of(width, 32), Axis.of(feed_forward, 32)
        qk_axis, v_axis = _head_axes(num_heads, head_dim, value_dim, rope_dim, pairing)
        rope = _rope(meta, meta.get_float("rope.freq_base", default_rope_base, least=1.0), rope_dim, pairing)
        return cls(
            num_layers=num_layers,
            width=width_axis.total,
            width_axis=width_axis,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=qk_axis.padded,
            qk_axis=qk_axis,
            v_axis=v_axis,
            feed_forward=feed_forward_axis.total,
            experts=experts,
            routed_elements=experts.used * (experts.feed_forward_axis.total + width_axis.total) if experts else 0,
            feed_forward_axis=feed_forward_axis,
            context_length=meta.get_int("context_length"),
            vocab_size=meta.vocab_size,
            norm=norm,
            norm_eps=meta.get_float(f"attention.layer_norm_{'rms_' if norm == 'rms' else ''}epsilon"),
            ropes=(rope,) * num_layers,
            windows=(0,) * num_layers,
            score_scale=head_dim**-0.5,
        )


def _head_lengths(meta: Hyperparameters, default: int) -> tuple[int, int]:
    """Elements of a key and of a value of one head."""
    key_length = meta.get_int("attention.key_length", default)
    key_length = meta.get_int("attention.key_length_mla", key_length)  # the other one is then of latent rows
    value_length = meta.get_int("attention.value_length", key_length)
    return key_length, meta.get_int("attention.value_length_mla", value_length)


def _rope(meta: Hyperparameters, base: float, num_rotated: int, pairing: str) -> RopeKind:
    """The rotation that the metadata describe, with its scaling."""
    kind, factor = meta.rope_scaling()
    is_yarn = kind == "yarn" and factor > 1
    has_long_factors = "rope_factors_long.weight" in meta.gguf.tensors
    original = meta.get_int("rope.scaling.original_context_length", least=2) if is_yarn or has_long_factors else 0
    magnitude = 1 + 0.1 * math.log(factor) if is_yarn else 1.0
    unsaid = 1.0
    if has_long_factors:  # as in Ding et al. 2024, https://arxiv.org/abs/2402.13753
        extension = max(meta.get_int("context_length") / original, 1.0)
        unsaid = math.sqrt(1 + math.log(extension) / math.log(original))
    return RopeKind(
        base=base,
        num_rotated=num_rotated,
        pairing=pairing,
        scale=1 / factor,
        reads_factors=True,
        extends_from=original if is_yarn else 0,
        magnitude=magnitude * meta.get_float("rope.scaling.attn_factor", unsaid),
        short_context=original,
    )


def _head_axes(num_heads: int, head_dim: int, value_dim: int, num_rotated: int, pairing: str) -> tuple[Axis, Axis]:
    """Of the queries and keys, and of the values of a head, so that both have the same multiple of 8 elements, all
    heads a multiple of 32, and a multiple of 4 of them rotate. Rotation in halves needs its zeros between the halves.
    """
    rotated = round_up(num_rotated, 4)
    padded = padded_head(max(rotated + head_dim - num_rotated, value_dim), num_heads, least=8)
    half = num_rotated // 2
    shifted = (rotated - num_rotated) // 2 if pairing == "halves" else 0
    places = [
        place if place < half else place + shifted if place < num_rotated else place + rotated - num_rotated
        for place in range(head_dim)
    ]
    return Axis(1, tuple(places), padded), Axis(1, range(value_dim), padded)
