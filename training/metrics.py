"""Image metrics under one named protocol.

Images are float in [0, 1], channels last. PSNR = -10 log10(MSE) per image over all pixels and
channels; SSIM (Wang et al. 2004) with an 11x11 Gaussian window, sigma 1.5, K = (0.01, 0.03),
data range 1, valid windows only, averaged over channels; LPIPS (Zhang et al. 2018) only when
its weights are on this machine.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from polyfield.errors import InputError, MissingDependencyError


def round_to_8_bits(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Clamp to [0, 1] and round to the 256 values of an 8-bit file. Not differentiable."""
    return (image.clamp(0, 1) * 255).round() / 255


def psnr(prediction: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> float:
    """Peak signal-to-noise ratio in dB; infinite for identical images.

    >>> round(psnr(torch.full((4, 4, 3), 0.5), torch.full((4, 4, 3), 0.6)), 3)
    20.0
    """
    error = (prediction.double() - truth.double()).square().mean()
    return float("inf") if error == 0 else float(-10 * torch.log10(error))


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Float[Tensor, "size"]:
    """Normalised 1-D Gaussian window, float64."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-x.square() / (2 * sigma**2))
    return window / window.sum()


def ssim(prediction: Float[Tensor, "h w c"], truth: Float[Tensor, "h w c"]) -> float:
    """Structural similarity in [-1, 1].

    Raises:
        InputError: The image is smaller than the 11x11 window.
    """
    h, w, channels = prediction.shape
    if min(h, w) < 11:
        raise InputError(
            f"SSIM needs images of at least 11x11 pixels, got {w}x{h}; evaluate larger"
        )
    x = prediction.double().permute(2, 0, 1)[:, None]
    y = truth.double().permute(2, 0, 1)[:, None]
    window = gaussian_window().to(x)

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(image, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)
        )

    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    score = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(score.mean())


class Lpips:
    """Learned perceptual distance with weights from a local folder.

    Args:
        folder: Where the weights of the network lie (None: ``$POLYFIELD_LPIPS``, or torch hub's
            ``checkpoints`` folder), under the name that torch hub gives them.
        net: ``"vgg"`` or ``"alex"``; never mix the two in a table.

    Raises:
        MissingDependencyError: The package `lpips` or the network's weights are not here; the
            message says which and how to get them.
    """

    def __init__(self, folder: Path | None = None, net: str = "vgg"):
        if importlib.util.find_spec("lpips") is None:
            raise MissingDependencyError(
                "LPIPS needs the package lpips (pip install 'polyfield[metrics]') and its weights"
            )
        file = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}[net]
        default = os.environ.get("POLYFIELD_LPIPS") or Path(torch.hub.get_dir()) / "checkpoints"
        folder = Path(folder or default)
        if not (folder / file).is_file():
            raise MissingDependencyError(
                f"LPIPS ({net}) needs {file}, which is not in {folder}; put it there, or set "
                "POLYFIELD_LPIPS to the folder that has it"
            )
        import lpips

        self.name = f"lpips-{net}"
        self._net = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
        # The distance's own small weights come with the package; the network's from here.
        features = torch.load(folder / file, map_location="cpu", weights_only=True)
        _fill_slices(self._net.net, features)

    @torch.no_grad()
    def __call__(self, prediction: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> float:
        """Distance of two images in [0, 1]; 0 for identical ones."""
        x, y = (image.permute(2, 0, 1)[None].float() * 2 - 1 for image in (prediction, truth))
        return float(self._net(x, y))


def _fill_slices(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give lpips' network, cut into ``slice1.0``, ``slice2.4``..., torchvision's ``features.N``."""
    named = {name: f"features.{name.split('.', 1)[1]}" for name in net.state_dict()}
    net.load_state_dict({name: weights[source] for name, source in named.items()})
