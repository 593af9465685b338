"""One loss a file. What MONAI has (Dice, cross-entropy) is MONAI's."""

from .consistency import ConsistencyLoss

__all__ = ["ConsistencyLoss"]
