"""One source of the configs: a base in ``templates/`` and one fragment a method in ``methods/`` write ``bundles/*/configs``."""
