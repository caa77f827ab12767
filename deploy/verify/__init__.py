"""Build the images and run them as docker-compose.yml says, with buildah and podman, no Docker.

``python -m deploy.verify`` as root on Linux. It ends with a table of sizes and times, or says what
is wrong; it removes the containers that it started. docs/deployment.md has the figures.
"""
