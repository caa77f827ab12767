"""What payment providers call: verify, store, answer."""
