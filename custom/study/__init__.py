"""Two folders in, one page out: plan, run, verdict."""
