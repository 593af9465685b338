"""One method a file: the terms that a labelled and an unlabelled batch contribute."""

from .base import Method
from .mean_teacher import MeanTeacher
from .moving_average import MovingAverage
from .supervised import Supervised

__all__ = ["MeanTeacher", "Method", "MovingAverage", "Supervised"]
