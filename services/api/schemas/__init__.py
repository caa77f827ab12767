"""What callers may send: parsed strictly, unknown fields ignored (contract 4)."""
