"""The code that the services share: kernel, models, ledger, payments, operations."""
