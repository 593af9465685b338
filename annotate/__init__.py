"""The MONAI Label app: a pretrained bundle served to annotators, and trained on what they correct.

``python -m annotate.start --studies DIR`` makes a work folder and starts the server in it. ``bundle``, ``rounds``, ``versions``
and ``ranking`` know nothing of MONAI Label; ``main``, ``infer``, ``train``, ``strategies`` and ``server`` are its seams.
"""

import custom  # noqa: F401  says what is missing before anything else is imported
