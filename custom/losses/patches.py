"""Stub: intra-patch and inter-patch sampling of the ranked losses."""
