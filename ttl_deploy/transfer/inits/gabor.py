"""Synthetic Gabor filters in the first convolution, the rest as it was built (Raghu 2019, section 5 and Figure 8).

The paper leaves the filters' numbers to its appendix F.3. Here a filter is Daugman's (1985)
exp(-(x'^2 + g^2 y'^2) / 2 s^2) cos(2 pi x' / l + phase), with the constants of simple cells of Petkov and Kruizinga
(1997): s = 0.56 l, which is a bandwidth of one octave, and g = 0.5. The bank has 8 orientations, both phases (even and
odd), and as many wavelengths l as that leaves filters for, in geometric steps from 3 pixels to the kernel's width.
Filters have no mean, are alike in all input channels, and have the deviation of the random ones that they replace, so
that what follows sees numbers of the size for which it was built.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttl_deploy.errors import BadInputError
from ttl_deploy.transfer.inits import INITS, Filled, Init, Part

ORIENTATIONS = 8
PHASES = (0.0, -math.pi / 2)
SHORTEST = 3.0
"""Pixels; a wave of two is the shortest that pixels can show."""
DEVIATION = 0.56
"""Of the envelope, in wavelengths."""
ELONGATION = 0.5


def fill(part: Part) -> Filled:
    """Writes the bank into the first convolution, where it is in this part.

    Raises:
        BadInputError: Its kernels are not images.
    """
    weight = part.tensors().get(part.first_weight)
    if weight is None:
        return Filled()
    if weight.ndim != 4 or min(weight.shape[2:]) < 2:
        raise BadInputError(
            f"{part.first_weight} has kernels of {tuple(weight.shape[2:])}, and Gabor filters are images",
            where="init gabor",
            fix="choose another initialisation",
        )
    with torch.no_grad():
        bank = gabor_bank(len(weight), weight.shape[2], weight.shape[3])
        weight.copy_((bank * weight.std())[:, None].expand_as(weight))
    return Filled(drawn=(part.first_weight,))


def gabor_bank(filters: int, height: int, width: int) -> Tensor:
    """(filters, height, width) float32, each with mean 0 and deviation 1; orientations change fastest."""
    count = max(1, math.ceil(filters / (ORIENTATIONS * len(PHASES))))
    longest = max(SHORTEST, float(max(height, width)))
    lengths = [SHORTEST * (longest / SHORTEST) ** (i / max(1, count - 1)) for i in range(count)]
    angles = [math.pi * i / ORIENTATIONS for i in range(ORIENTATIONS)]
    bank = [_gabor(height, width, a, length, p) for length in lengths for p in PHASES for a in angles]
    return torch.stack(bank[:filters])


def _gabor(height: int, width: int, angle: float, wavelength: float, phase: float) -> Tensor:
    y, x = torch.meshgrid(_centred(height), _centred(width), indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    envelope = torch.exp(-(along**2 + (ELONGATION * across) ** 2) / (2 * (DEVIATION * wavelength) ** 2))
    wave = envelope * torch.cos(2 * math.pi * along / wavelength + phase)
    wave = wave - wave.mean()
    return (wave / wave.std(correction=0)).float()


def _centred(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float64) - (size - 1) / 2


INITS.register("gabor", Init(fill))
