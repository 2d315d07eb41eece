"""Barron's general robust loss, and its negative log-likelihood, whose shape and scale are fitted along the way.

Equation 3 of stergiou2021 is this loss, its last branch misprinted. With trainable shape and scale the loss alone
falls without limit as the scale grows; what is minimized here is the negative log-likelihood of the distribution that
goes with it, ``rho + log r + log Z(b)`` (barron2019, equation 16).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from phosphene.devices import CPU, has_float64, wide
from phosphene.errors import OptionError

# b stays inside the open interval (0, 2) and r above this floor, as in barron2019.
_SHAPE_MARGIN = 1e-3
_SCALE_FLOOR = 1e-5


def general_loss(distance: Tensor, shape: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """How much a distance costs: quadratic near zero, and the more forgiving far away the smaller the shape.

    ``rho = |b-2|/b * (((m/r)^2 / |b-2| + 1)^(b/2) - 1)`` with its limits at b = 2 (half the square), b = 0
    (``log((m/r)^2 / 2 + 1)``) and b = -inf (``1 - exp(-(m/r)^2 / 2)``). The paper prints the general branch with
    + 1 outside, without r and without the inner division's square; that is not continuous in b (our reading is
    Barron's own formula).

    Args:
        distance: m, any shape.
        shape: b, a number of any sign, or a tensor of values in (0, 2) that broadcasts.
        scale: r > 0, likewise.

    Returns:
        The loss, 0 at distance 0, like `distance`.

    Example:
        >>> general_loss(torch.tensor([0.0, 2.0]), 2.0)
        tensor([0., 2.])
        >>> general_loss(torch.tensor(2.0), 1.0)  # sqrt(m^2 + 1) - 1
        tensor(1.2361)

    References:
        barron2019, equation 8; stergiou2021, equation 3.
    """
    squared = (distance / scale) ** 2
    if isinstance(shape, Tensor):
        return _general(squared, shape)
    if shape == 2:
        return 0.5 * squared
    if shape == 0:
        return torch.log1p(0.5 * squared)
    if shape == -math.inf:
        return -torch.expm1(-0.5 * squared)
    return _general(squared, torch.as_tensor(shape, dtype=squared.dtype, device=squared.device))


def _general(squared: Tensor, shape: Tensor) -> Tensor:
    width = (shape - 2).abs()
    return width / shape * torch.expm1(0.5 * shape * torch.log1p(squared / width))


def log_partition(shape: Tensor) -> Tensor:
    """Logarithm of Z(b), the integral of exp(-rho(x, b, 1)) over all x; differentiable.

    By the trapezoid rule after ``x = sinh(pi/2 * sinh(t))`` (double-exponential quadrature): no table, and exact to
    the last digits of float64 although the tails reach from 1/x^2 to a Gaussian's.

    Args:
        shape: b in (0, 2), any tensor shape.

    Example:
        >>> log_partition(torch.tensor(1.9999999, dtype=torch.float64)) - 0.5 * math.log(2 * math.pi) < 1e-6
        tensor(True)

    References:
        barron2019, equation 17.
    """
    exponents = wide(shape)
    points, weights = _quadrature(exponents.device)
    losses = _general(points**2, exponents[..., None])
    return torch.logsumexp(weights.log() - losses, dim=-1).to(shape)


@cache
def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Points x >= 0 and weights whose sum of w * f(x) is the integral of an even f over all x."""
    step = 0.04
    t = torch.arange(0, 4.2, step, dtype=torch.float64, device="cpu")
    inner = math.pi / 2 * torch.sinh(t)
    weights = 2 * step * math.pi / 2 * torch.cosh(t) * torch.cosh(inner)
    weights[0] /= 2
    return torch.sinh(inner).to(device), weights.to(device)


def negative_log_likelihood(distance: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """``rho(m, b, r) + log r + log Z(b)``: what is minimized when shape and scale are fitted along the way.

    A larger scale makes the loss smaller but costs log r, so there is a best scale, about the distance itself.

    Args:
        distance: m, any shape.
        shape: b in (0, 2), broadcasts.
        scale: r > 0, broadcasts.

    References:
        barron2019, equation 16.
    """
    return general_loss(distance, shape, scale) + scale.log() + log_partition(shape)


class AdaptiveDistance:
    """The trainable shape b and scale r of each image's distances, kept and fitted over all steps.

    b = 2 sigmoid(.) is kept in [0.001, 1.999] and begins at 1; r = exp(.) + 1e-5 begins at `scale` (barron2019 has a
    softplus; a logarithm finds far scales sooner). Adam fits both, one step for each step of the images; the images
    of a batch do not see each other. The paper names neither optimizer nor start (ours); Adam forgets the large first
    gradients sooner than usual, or the scale would stand still.

    Args:
        rows: (N,), or (N, k) for a shape and scale per channel: the form of the distances.
        scale: first scale, one for all or one per distance.
        rate: step of Adam on the two hidden numbers.
        device: where the distances are; both are kept there, or on the CPU if that device has no float64.

    Example:
        >>> adaptive = AdaptiveDistance((1,), rate=0.1)
        >>> for _ in range(400):
        ...     adaptive.fit(torch.tensor([5.0]))
        >>> round(adaptive.scale.item())  # the scale finds the distance
        5
    """

    def __init__(
        self, rows: tuple[int, ...], *, scale: float | Tensor = 1.0, rate: float = 0.05, device: torch.device = CPU
    ) -> None:
        place = device if has_float64(device) else CPU
        first = torch.as_tensor(scale, dtype=torch.float64, device=place).expand(rows).clamp(min=2 * _SCALE_FLOOR)
        if not bool(torch.isfinite(first).all()):
            raise OptionError("the first scale of an adaptive distance is not a finite number")
        with torch.inference_mode(False), torch.enable_grad():
            self._shape = torch.zeros(rows, dtype=torch.float64, device=place, requires_grad=True)
            self._scale = (first - _SCALE_FLOOR).log().requires_grad_()
        self._optimizer = torch.optim.Adam([self._shape, self._scale], lr=rate, betas=(0.9, 0.99))

    @property
    def shape(self) -> Tensor:
        """b, (N,) or (N, k)."""
        return _SHAPE_MARGIN + (2 - 2 * _SHAPE_MARGIN) * torch.sigmoid(self._shape)

    @property
    def scale(self) -> Tensor:
        """r, (N,) or (N, k)."""
        return self._scale.exp() + _SCALE_FLOOR

    def loss(self, distance: Tensor, rows: slice = slice(None)) -> Tensor:
        """The negative log-likelihood of distances (n,) or (n, k) of some images, b and r held fixed."""
        shape, scale = (values.detach()[rows].to(distance) for values in (self.shape, self.scale))
        return negative_log_likelihood(distance, shape, scale)

    def fit(self, distance: Tensor) -> None:
        """One step of b and r towards what makes all images' distances (N,) or (N, k) most likely."""
        with torch.inference_mode(False), torch.enable_grad():
            distance = distance.detach().to(self._shape)
            self._optimizer.zero_grad()
            negative_log_likelihood(distance, self.shape, self.scale).sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
