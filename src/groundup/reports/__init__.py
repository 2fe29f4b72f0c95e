"""Reports on runs and sweeps: statistics, findings, curves, and the pages that show them."""
