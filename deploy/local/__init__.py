"""The embedded stack: servers from wheels and every service, with no Docker and no root."""
