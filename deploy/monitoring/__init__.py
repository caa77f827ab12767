"""Prometheus and Grafana as code: what to scrape, when to call somebody, what to look at."""
