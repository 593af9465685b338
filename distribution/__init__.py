"""How pretrained bundles are put together and handed out; no bundle needs this package.

``python -m distribution.build`` makes the release, ``.list`` shows what there is, ``.adopt`` takes up a finished run.
"""

import custom  # noqa: F401  says what is missing before anything else is imported
