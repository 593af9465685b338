"""nnU-Net v2 and our bundles on the same scans, the same split, in the same time."""
