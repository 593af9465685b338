"""Networks that MONAI lacks: each returns logits from ``forward`` and logits with feature maps from ``features``."""

from .placing import place
from .unet import UNet

__all__ = ["UNet", "place"]
