"""A small bidirectional copy-paste, past its first stage."""

import tiny

from custom.losses import MaskedDiceCELoss
from custom.methods import BidirectionalCopyPaste
from custom.stream.mixing import Paste

WEIGHTS = {
    "supervised": {"value": 1.0, "to": 0.3},
    "inward": {"value": 0.5, "from": 0.3},
    "outward": {"value": 0.5, "from": 0.3},
}


def method() -> BidirectionalCopyPaste:
    return BidirectionalCopyPaste(tiny.network(), MaskedDiceCELoss(0.5, 0.5), Paste())
