"""The x402 protocol: terms, headers, strict checks, facilitator and chain. No tables, no Flask."""
