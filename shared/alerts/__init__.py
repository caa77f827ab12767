"""Alerts: rules computed from data, what fires and what cleared (runbook 3)."""
