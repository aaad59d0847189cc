"""What presets share: heads, samplers and optimisers, so that a better one is found once.

Presets are plain data (docs/settings.md); these are their common parts.
"""

from __future__ import annotations

from typing import Any

# Raw density is the first feature, or a layer of its own (`linear`) for networks whose features
# are all alike.
HEADS: dict[str, Any] = {
    "type": "radiance",
    "direction": {"type": "spherical-harmonics", "degree": 4},
    "density": "feature",
    "density_activation": "exp",
    "density_shift": -1.0,
    "hidden": [64],
    "bias": False,
}
LINEAR_HEADS: dict[str, Any] = {**HEADS, "density": "linear", "bias": True}
# TensoRF's: softplus keeps products of factors from growing too fast.
TENSORF_HEADS: dict[str, Any] = {
    "type": "radiance",
    "direction": {"type": "frequency", "levels": 2},
    "density": "feature",
    "density_activation": "softplus",
    "density_shift": -10.0,
    "density_scale": 25.0,
    "feature_encoding": {"type": "frequency", "levels": 2},
    "hidden": [128, 128],
    "bias": True,
}
# Instant-NGP's.
NGP_HEADS: dict[str, Any] = {
    "type": "radiance",
    "direction": {"type": "spherical-harmonics", "degree": 4},
    "density": "feature",
    "density_activation": "exp",
    "hidden": [64, 64],
    "bias": False,
}
UNBOUNDED: dict[str, Any] = {"sampler": {"type": "proposal"}}

# Signals: the networks work in [-1, 1], as sounds and distances do; colours lie in [0, 1].
CENTRED = {"type": "signal", "scale": 0.5, "shift": 0.5}
AS_IT_IS = {"type": "signal", "scale": 1.0, "shift": 0.0}
ADAM: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "lr_final": 0.1}

# Points of a step of a network on signals. Many small steps: on a photograph, with 200,000
# parameters and 30 s of one thread, 2,048 give 3 to 8 dB more than 16,384.
SMALL_BATCH = 2048

# Steps over the diagonal: long first, while there is nothing fine to be seen.
FINE_STEPS = {"steps": 768, "first_steps": 192, "growth": 1.0}
# For networks whose samples cost more than a lookup.
FEW_STEPS = {"steps": 512, "first_steps": 256, "growth": 0.5}


def two_cores(
    backbone: dict[str, Any],
    field: dict[str, Any] = HEADS,
    steps: dict[str, Any] = FINE_STEPS,
    **fit: Any,
) -> dict[str, Any]:
    """The preset ``cpu`` of a radiance field: minutes on two cores.

    Args:
        backbone: Its settings.
        field: Those of its heads.
        steps: `FINE_STEPS` or `FEW_STEPS`.
        **fit: Settings of the fit besides, or in place of, small batches first and larger later.
    """
    return {
        "backbone": backbone,
        "field": field,
        # gradients only for samples that light reaches and that absorb some of it
        "renderer": {"type": "volume", "early_stop_eps": 0.01, "alpha_threshold": 1e-3},
        "sampler": {
            "type": "occupancy-grid",
            "resolution": 64,
            **steps,
            "dilate": False,
            "early_stop_eps": 0.0,
        },
        # random backgrounds keep transparent pixels from being filled with white fog
        "data": {"background": "random"},
        "fit": {
            "rays": 512,
            "target_samples": 8192,
            "target_samples_final": 32768,
            "lr_final": 0.1,
            **fit,
        },
    }


def network_on_two_cores(
    backbone: dict[str, Any], field: dict[str, Any] = LINEAR_HEADS, **fit: Any
) -> dict[str, Any]:
    """`two_cores` for wide networks: fewer samples, in batches that stay small."""
    small = {**ADAM, "target_samples_final": None}
    return two_cores(backbone, field, FEW_STEPS, **{**small, **fit})
