"""The feed-forward of a mixture of experts: each token goes through the few experts that its router chooses
(Shazeer et al. 2017, https://arxiv.org/abs/1701.06538).

In: `weights.Weights` and a config. Out: a callable on symbolic values. Nothing here names an architecture.
"""

from ..graph import functions as F
from ..graph.builder import Value
from ..graph.model import Caches
from .axes import Axis
from .blocks import FeedForward
from .decoder_config import DecoderConfig
from .layers import Norm, optional, prepared
from .weights import Weights


class ExpertFeedForward:
    """The sum of weight * down(gate(norm(x)) * up(norm(x))) of a token's experts [+ shared expert] [+ residual].

    A shared expert, which every token uses, may be multiplied by the sigmoid of a gate of its own.
    """

    def __init__(self, w: Weights, cfg: DecoderConfig):
        experts = cfg.experts
        assert experts is not None, "only mixtures of experts have such layers"
        self.experts = experts
        self.gate = cfg.gate
        rows, width, count = experts.feed_forward_axis, cfg.width_axis, experts.count
        self.router = w.linear("ffn_gate_inp", rows=(count,), columns=width)
        self.choice_bias = w.bias(["exp_probs_b"], [count])
        names = "ffn_gate_exps", "ffn_up_exps"
        if len({info and info.type for info in map(w.info, names)}) == 1:
            self.inner = [w.experts(*names, count=count, rows=rows, columns=width, gated=True)]
        else:
            self.inner = [w.experts(name, count=count, rows=rows, columns=width) for name in names]
        self.down = w.experts("ffn_down_exps", count=count, rows=width, columns=rows)
        self.shared = None
        if info := w.info("ffn_up_shexp"):
            self.shared = FeedForward(w, cfg, Axis.of(info.shape[0], 32), "_shexp")
        self.shared_gate = w.row("ffn_gate_inp_shexp", width) if w.has("ffn_gate_inp_shexp") else None

    def __call__(self, x: Value, norm: Norm | None, caches: Caches, residual: Value | None = None) -> Value:
        """x: (T, width), normalized here -> (T, width), with `residual` added."""
        graph = x.graph
        shared = shared_gate = None
        if self.shared and self.shared_gate:
            shared, shared_gate = self.shared(x, norm, caches), self.shared_gate(x, norm)
        elif self.shared:
            residual = self.shared(x, norm, caches, residual)
        routes = F.route(self.router(x, norm), optional(graph, self.choice_bias), self.experts)
        x, fused = prepared(x, norm)
        gate = self.gate if len(self.inner) == 1 else ""
        inner = [F.expert_matmul(x, graph.constant(weight), routes, gate=gate, **fused) for weight in self.inner]
        hidden = inner[0] if gate else F.GATES[self.gate](*inner)
        products = F.expert_matmul(hidden, graph.constant(self.down), routes)
        return F.mix_experts(products, routes, residual=residual, shared=shared, shared_gate=shared_gate)
