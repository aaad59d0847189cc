"""What fields of rays have in common: a ray code, a backbone for each of its parts, and heads.

o: origins and d: unit directions in scene-box units; near, far: range of distances along d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from polyfield.encodings.base import CoordinateMap, Progress
from polyfield.encodings.contraction import Contraction
from polyfield.encodings.ray_codes.base import RayCode, RayNumbers, RayVectors
from polyfield.fields.heads import SmallMLP
from polyfield.fields.insight import MOST, Insight
from polyfield.registry import build


class Parts(nn.ModuleList):
    """The backbones of the parts of a code, one per part."""

    def insights(self, limit: int = MOST) -> list[Insight]:
        """What all of them have learned; names begin with the part's number where there are more
        than one."""
        from dataclasses import replace

        shown = [(k, insight) for k, part in enumerate(self) for insight in part.insights(limit)]
        if len(self) == 1:
            return [insight for _, insight in shown]
        return [replace(insight, name=f"part {k + 1}, {insight.name}") for k, insight in shown]


class RayField(nn.Module):
    """A field that is asked about whole rays: code, then backbone and head of the ray's part.

    Rays in the margin between two parts are evaluated in both, and what `finish` makes of the
    outputs is mixed.

    Args:
        config: Has ``code`` (the spec of a ray code) and ``hidden`` (widths of a ReLU network
            behind the backbone; none: the backbone's own last layer).
        channels: Numbers per ray.
        backbones: One per part of the code.
        contraction: ``"none"``: the scene ends at its box.
        generator: CPU generator of the initial weights.
    """

    kind: ClassVar[str] = "fields"

    def __init__(
        self,
        config: Any,
        channels: int,
        backbones: Sequence[CoordinateMap],
        contraction: Contraction = "none",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.contraction = config, contraction
        self.code: RayCode = build("ray-codes", config.code, bounded=contraction == "none")
        self.backbone = Parts(backbones)
        assert len(self.backbone) == self.code.clusters
        self.heads = nn.ModuleList(
            SmallMLP(part.out_dim, config.hidden, channels, True, generator)
            if config.hidden
            else part.make_head(channels, generator)
            for part in self.backbone
        )

    @staticmethod
    def coordinates(config: Any) -> tuple[int, ...]:
        """How many coordinates each of the backbones takes: one entry per part of the code."""
        code = build("ray-codes", config.code)
        return (code.out_dim,) * code.clusters

    def adapt(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> None:
        """Let the code see rays like those to come, once, before the first step."""
        self.code.adapt(origins, directions, near, far, generator)

    def finish(self, raw: Float[Tensor, "n channels"]) -> Float[Tensor, "n channels"]:
        """Activations of the outputs: none, unless a field overrides this."""
        return raw

    def outputs(
        self,
        origins: RayVectors,
        directions: RayVectors,
        near: RayNumbers,
        far: RayNumbers,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "n channels"], Bool[Tensor, "n"] | None]:
        """Finished numbers per ray, and which rays the code can tell apart (None: all).

        Args:
            origins: Of the rays.
            directions: Of the rays, of unit length.
            near: Least distance looked at.
            far: Largest distance looked at.
            generator: Jitters the code while the field is trained.
        """
        codes = self.code(origins, directions, near, far, generator)
        if codes.cluster is None or len(self.backbone) == 1:
            return self.finish(self.heads[0](self.backbone[0](codes.values))), codes.valid
        if codes.other is None:
            return self._in_parts(codes.values, codes.cluster), codes.valid
        mixed = (codes.share < 1).nonzero()[:, 0]
        both = self._in_parts(
            torch.cat((codes.values, codes.other.values[mixed])),
            torch.cat((codes.cluster, codes.other.cluster[mixed])),
        )
        own, other = both[: len(codes.values)], both[len(codes.values) :]
        share = codes.share[mixed, None].to(own.dtype)
        blend = own[mixed] * share + other * (1 - share)
        return own.index_put((mixed,), blend), codes.valid

    def _in_parts(self, values: Tensor, cluster: Int64[Tensor, "n"]) -> Tensor:
        """Outputs of rays, each by the backbone of its part."""
        rows = [(cluster == k).nonzero()[:, 0] for k in range(len(self.backbone))]
        made = [
            self.finish(head(part(values[mine])))
            for part, head, mine in zip(self.backbone, self.heads, rows, strict=True)
        ]
        out = torch.cat(made)
        return torch.zeros_like(out).index_put((torch.cat(rows),), out)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The backbones' groups and one of the heads, at base rate `lr`."""
        groups = [group for part in self.backbone for group in part.parameter_groups(lr)]
        return [*groups, {"params": list(self.heads.parameters()), "lr": lr}]

    def regularisation(self) -> dict[str, Tensor]:
        """The backbones' named penalties, added up."""
        total: dict[str, Tensor] = {}
        for part in self.backbone:
            for name, value in part.regularisation().items():
                total[name] = total[name] + value if name in total else value
        return total

    def grow(self, progress: Progress) -> bool:
        """Let the backbones change with the fit; whether parameters were replaced."""
        return any([part.grow(progress) for part in self.backbone])

    def slim(self, rank: int) -> None:
        """Keep the first `rank` components of the backbones only."""
        for part in self.backbone:
            part.slim(rank)
