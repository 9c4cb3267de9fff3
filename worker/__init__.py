"""Scores rows: a Celery worker that owns one device."""
