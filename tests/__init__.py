"""The tests: unit (pure), integration (through the front door, on both databases)."""
