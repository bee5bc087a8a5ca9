"""What scripts/compare runs."""
