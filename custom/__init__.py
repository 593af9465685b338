"""What a semi-supervised MONAI bundle needs beside MONAI: losses, methods, the dual-stream trainer.

Importing this package imports nothing else of it except how an error is shown; every part is named by its module
(``custom.training.trainer``, in a bundle ``scripts.training.trainer``), so that a process which needs one part does not pay
for the others.
"""

import sys
from importlib.util import find_spec

from .errors import MissingPackages, show_plainly

if missing := [name for name in ("torch", "monai") if find_spec(name) is None]:
    show_plainly()
    raise MissingPackages(
        f"this Python ({sys.executable}) has no {' and no '.join(missing)}. Activate the virtual environment (source "
        ".venv/bin/activate), or install what is needed: pip install -r requirements.txt"
    )
