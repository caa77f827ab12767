"""Campaigns: a budget of credits that is granted to wallets by a formula (behaviour 9)."""
