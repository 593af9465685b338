"""Two small networks that teach each other."""

import tiny

from custom.methods import CrossPseudoSupervision

WEIGHTS = {"supervised": 1.0, "cross": {"ramp": 0.1, "until": 1.0}}


def method(**settings) -> CrossPseudoSupervision:
    return CrossPseudoSupervision(tiny.network(0), tiny.network(1), tiny.supervised_loss(), **settings)
