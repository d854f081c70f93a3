"""What Alembic runs: the migrations on the connection that `archive.migrations.upgrade` opened."""

from alembic import context

from pacsnode.workflow.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
