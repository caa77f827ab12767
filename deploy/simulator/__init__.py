"""Stand-ins that speak the real protocols: NOWPayments, an x402 facilitator, a node of Base.

The product never imports them.
"""
