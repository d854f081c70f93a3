"""Alembic migrations of workflow.sqlite: versions/ holds one module per revision."""
