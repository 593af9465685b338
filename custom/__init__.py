"""What a semi-supervised MONAI bundle needs beside MONAI: losses, methods, the dual-stream trainer.

Importing this package imports nothing else; every part is named by its module (``custom.training.trainer``, in a bundle
``scripts.training.trainer``), so that a process which needs one part does not pay for the others.
"""
