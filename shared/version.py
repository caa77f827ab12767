"""The version of all services and commands; pyproject.toml, images and documents read it here."""

VERSION = "0.1.0"
