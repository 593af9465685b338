"""What the bundles do, measured: on real scans, on phantoms, in a study; no bundle needs this package."""

import custom  # noqa: F401  says what is missing before anything else is imported
