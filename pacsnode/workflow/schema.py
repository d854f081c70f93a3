"""Tables of workflow.sqlite. Every table is described here; migrations/versions makes them."""

from typing import Final

from sqlalchemy import MetaData

REVISION: Final = "0001"  # the newest of migrations/versions; a test compares

metadata = MetaData()
