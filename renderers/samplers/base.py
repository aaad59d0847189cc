"""What a sampler is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from polyfield.config import Spec
from polyfield.encodings.base import Cells
from polyfield.renderers.types import Rays, Samples

MakeField = Callable[[Spec | None], Any]


class Sampler(nn.Module):
    """Picks intervals along rays.

    Constructed as ``cls(config, contraction=..., make_field=..., generator=...)``:
    `contraction` is the field's (``"none"``: the scene ends at the box, intervals outside it
    are useless); ``make_field(backbone_spec)`` builds another field of the run's kind (None:
    the run's own backbone), for samplers that train coarse or proposal fields.
    """

    kind: ClassVar[str] = "samplers"

    def forward(self, rays: Rays, field: Any, generator: torch.Generator | None = None) -> Samples:
        """Intervals for `rays` (one leading dimension).

        Randomly jittered with a `generator`, deterministic without.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def schedule(self, fraction: float) -> None:
        """Take the share of the fit's budget that is spent, before every training step.

        What depends on it must depend on nothing else, so that a resumed fit goes on as it was;
        samplers that are not told are as at the end.
        """

    def update(self, field: Any, step: int, generator: torch.Generator) -> None:
        """Follow the field while it trains; called once before every training step."""

    def occupied_cells(self) -> Cells | None:
        """Where anything was found so far, in the box; None where nobody looked."""
        return None

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups of the sampler's own fields."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params, "lr": lr}] if params else []
