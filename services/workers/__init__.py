"""What happens later: Celery workers and their schedule."""
