"""The three services of Arrakis Billing."""
