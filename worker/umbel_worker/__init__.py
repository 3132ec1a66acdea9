"""The worker: Celery app, the infer task, model runtime and lease keeping."""
