"""The HTTP face (Starlette). Knows the archive and the configuration, no PDU."""
