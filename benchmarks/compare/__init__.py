"""Bundles against each other on real scans: runs what is missing, keeps a row a run, writes table and page."""
