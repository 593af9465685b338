"""Networks that MONAI lacks: each returns logits from ``forward`` and logits with feature maps from ``features``."""

from .cascade import Cascade
from .gated_vnet import GatedVNet
from .one_channel import OneChannel
from .placing import place
from .unet import UNet

__all__ = ["Cascade", "GatedVNet", "OneChannel", "UNet", "place"]
