"""Baselines to measure ourselves against; nothing of the product uses them."""
