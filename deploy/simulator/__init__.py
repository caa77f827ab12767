"""A stand-in for NOWPayments that speaks its real protocol. Never imported by the product."""
